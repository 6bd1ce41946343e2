"""Clients that leave, owners that cancel, waits that end: the engine is told, the slot is free, the row says so."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from portal.redis import keys
from tests.flow.dataplane import Plane, answered, both_links, chat, until
from tests.flow.fake_ingress import go_on_for_ever

pytestmark = both_links


async def test_a_client_that_leaves_takes_its_request_along(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [go_on_for_ever]
    answer = await plane.post(chat(stream=True)).__aenter__()
    await answer.content.readline()
    request = answer.headers["x-request-id"]
    answer.close()
    await until(lambda: plane.ingress.running == 0, "the engine is told")
    row = await plane.ended(request)
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    assert row["first_token_at"] is not None
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_client_that_leaves_the_line_is_out_of_it(plane: Plane) -> None:
    answer = await plane.post(chat(stream=True)).__aenter__()
    await answer.content.readline()
    request = answer.headers["x-request-id"]
    answer.close()
    row = await plane.ended(request)
    assert row["state"] == "cancelled"
    await until(lambda: not plane.redis.exists(keys.WAIT.of("demo"), keys.OWNER.of("demo")), "an empty line")
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]


async def test_a_granted_answer_in_one_piece_ends_at_the_engine_when_its_client_leaves(plane: Plane) -> None:
    plane.ingress.gate.clear()
    asking = asyncio.create_task(answered(plane))
    (request,) = await plane.waiting()
    replica = await plane.open()
    await until(lambda: plane.ingress.running == 1, "it runs")
    asking.cancel()
    await until(lambda: plane.ingress.running == 0, "the engine is told")
    row = await plane.ended(request)
    assert (row["state"], row["error_code"], row["attempt"]) == ("cancelled", "client_left", 1)
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_cancel_through_the_api_ends_stream_and_engine(plane: Plane) -> None:
    from portal.ledger import transitions

    plane.ingress.next = [go_on_for_ever]
    for state in ("queued", "running"):
        async with plane.post(chat(stream=True)) as answer:
            await answer.content.readline()
            request = answer.headers["x-request-id"]
            if state == "running":
                await plane.open()
                await until(lambda: plane.ingress.running == 1, "it runs")
            await _cancel(plane, request, transitions)
            text = await answer.text()
        assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == "cancelled"
        await until(lambda: plane.ingress.running == 0, "the engine is told")
        row = await plane.ended(request)
        assert (row["state"], row["error_code"]) == ("cancelled", "cancelled")
    assert not plane.redis.exists(keys.WAIT.of("demo"))


async def _cancel(plane: Plane, request: str, transitions: Any) -> None:
    """Cancel a request as the API's DELETE does it."""
    import uuid
    from datetime import UTC, datetime

    with plane.pg.cursor() as cur:
        (gone,) = transitions.cancel(cur, [uuid.UUID(request)], datetime.now(UTC), "asked")
    plane.pg.commit()
    plane.redis.publish(
        keys.GATEWAY.of(gone.holder), json.dumps({"cancel": request, "attempt": gone.attempt})
    )


async def test_a_row_cancelled_without_a_word_is_found_at_its_grant(plane: Plane) -> None:
    asking = asyncio.create_task(answered(plane))
    (request,) = await plane.waiting()
    plane.sql("UPDATE ledger_request SET state = 'cancelled', ended_at = now() WHERE id = %s", (request,))
    replica = await plane.open()
    status, text, _ = await asking
    assert (status, json.loads(text)["error"]["code"]) == (409, "cancelled")
    assert not plane.ingress.seen
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_detached_row_is_not_run_here(plane: Plane) -> None:
    asking = asyncio.create_task(answered(plane))
    (request,) = await plane.waiting()
    plane.sql("UPDATE ledger_request SET lane = 'async', holder = NULL WHERE id = %s", (request,))
    await plane.open()
    status, text, _ = await asking
    assert (status, json.loads(text)["error"]["code"]) == (503, "detached")
    row = plane.row(request)
    assert row is not None and row["state"] == "queued" and not plane.ingress.seen


async def test_a_client_in_a_hurry_is_told_before_it_gives_up(plane: Plane) -> None:
    async with plane.post(headers={"x-stainless-read-timeout": "10.5"}) as answer:
        said = (await answer.json())["error"]
        assert (answer.status, said["code"]) == (503, "model_starting")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert "not loaded" in said["message"]
        assert answer.headers["X-Should-Retry"] == "true"
    row = plane.row(answer.headers["x-request-id"])
    assert row is not None and (row["state"], row["holder"]) == ("queued", plane.gateway.id)
    await until(lambda: not plane.redis.exists(keys.WAIT.of("demo")), "an empty line")


async def test_those_who_wait_for_a_latched_model_are_told_why(plane: Plane) -> None:
    async with plane.post(chat(stream=True)) as answer:
        await answer.content.readline()
        plane.sql(
            """INSERT INTO fleet_poolstate (pool_id, failures, latched_at, reason)
               VALUES ('demo', 3, now(), 'The weights are not readable.')"""
        )
        plane.redis.publish(keys.DIRECTORY.of(), "changed")
        text = await answer.text()
    said = json.loads(text.strip().split("data: ")[-1])["error"]
    assert said["code"] == "model_unavailable" and "The weights are not readable." in said["message"]
    async with plane.post() as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_unavailable")
        assert answer.headers["X-Should-Retry"] == "false"
    assert plane.sql("SELECT count(*) FROM ledger_request WHERE ended_at IS NULL") == [(0,)]
