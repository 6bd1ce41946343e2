"""Requests that find a hot replica with room: they run at once and are recorded at their end."""

from __future__ import annotations

import json

from gpuworker import wire
from tests.flow.dataplane import Plane, both_links, chat

pytestmark = both_links


async def test_an_answer_in_one_piece_comes_back_and_is_recorded(plane: Plane) -> None:
    replica = plane.route()
    async with plane.post() as answer:
        assert answer.status == 200
        said = await answer.json()
        request = answer.headers["x-request-id"]
    assert said["choices"][0]["message"]["content"] == "hello world"
    row = await plane.ended(request)
    assert (row["state"], row["lane"], row["attempt"], row["replica"]) == ("done", "held", 1, replica)
    assert (row["prompt_tokens"], row["completion_tokens"], row["http_status"]) == (7, 2, 200)
    assert row["accepted_at"] <= row["granted_at"] <= row["first_token_at"] <= row["ended_at"]
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]
    assert plane.slots(replica) == 0


async def test_the_ingress_gets_key_and_fence_and_nothing_of_the_clients_headers(plane: Plane) -> None:
    replica = plane.route()
    async with plane.post(headers={"X-Secret": "mine"}) as answer:
        request = answer.headers["x-request-id"]
    seen = plane.ingress.seen[0]
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    assert seen.headers[wire.HEADER_KEY] == wire.derive_key(plane.settings.site_key, "ingress", pilot)
    assert seen.headers[wire.HEADER_REPLICA] == replica
    assert seen.headers[wire.HEADER_REQUEST] == request
    assert "authorization" not in seen.headers and "x-secret" not in seen.headers


async def test_a_stream_comes_through_without_the_usage_that_was_not_asked_for(plane: Plane) -> None:
    plane.route()
    async with plane.post(chat(stream=True)) as answer:
        assert answer.status == 200
        assert answer.headers["Content-Type"].startswith("text/event-stream")
        assert answer.headers["X-Accel-Buffering"] == "no"
        text = (await answer.read()).decode()
        request = answer.headers["x-request-id"]
    assert plane.ingress.seen[0].body["stream_options"] == {"include_usage": True}
    assert "usage" not in text and text.endswith("data: [DONE]\n\n")
    events = [json.loads(line[6:]) for line in text.split("\n\n") if line.startswith("data: {")]
    assert "".join(e["choices"][0]["delta"]["content"] for e in events) == "hello world"
    row = await plane.ended(request)
    assert (row["state"], row["prompt_tokens"], row["completion_tokens"]) == ("done", 7, 2)
    assert row["stream"] is True


async def test_a_stream_that_asked_for_usage_sees_it(plane: Plane) -> None:
    plane.route()
    async with plane.post(chat(stream=True, stream_options={"include_usage": True})) as answer:
        text = await answer.text()
    assert '"usage":{"prompt_tokens":7,"completion_tokens":2}' in text
