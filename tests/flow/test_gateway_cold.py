"""Requests for a model that is not there, or has no room: accepted, in line, granted, answered once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.flow.dataplane import Plane, chat, until


async def test_a_stream_is_held_with_heartbeats_until_a_replica_is_there(plane: Plane) -> None:
    async with plane.post(chat(stream=True)) as answer:
        assert answer.status == 200
        first = await answer.content.readline()
        assert first.startswith(b": berth ")
        beat = json.loads(first.removeprefix(b": berth "))
        assert beat["position"] == 1
        assert "not loaded" in beat["reason"]
        request = answer.headers["x-request-id"]
        row = plane.row(request)
        assert row is not None and (row["state"], row["lane"]) == ("queued", "held")
        assert row["holder"] == plane.gateway.id
        replica = await plane.open()
        text = (await answer.read()).decode()
    assert '"content":"hello"' in text and text.endswith("data: [DONE]\n\n")
    row = await plane.ended(request)
    assert (row["state"], row["attempt"], row["replica"]) == ("done", 1, replica)
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_an_answer_in_one_piece_is_held_too(plane: Plane) -> None:
    asking = asyncio.create_task(plane.post().__aenter__())
    await plane.waiting()
    await plane.open()
    async with await asking as answer:
        assert answer.status == 200
        assert (await answer.json())["choices"][0]["message"]["content"] == "hello world"


async def test_positions_follow_the_order_of_arrival_and_so_do_grants(plane: Plane) -> None:
    plane.ingress.gate.clear()
    requests = []
    asking: list[asyncio.Task[Any]] = []
    for n in range(3):
        asking.append(asyncio.create_task(plane.post(chat(user=f"u{n}")).__aenter__()))
        requests = await plane.waiting(n + 1)
    replica = plane.route(cap=1)
    await plane.gateway.slots.fill("demo")
    plane.ingress.gate.set()
    for task in asking:
        async with await task as answer:
            assert answer.status == 200
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["u0", "u1", "u2"]
    assert [seen.headers["x-berth-request"] for seen in plane.ingress.seen] == requests
    assert plane.ingress.most == 1
    assert plane.slots(replica) == 0


async def test_the_control_loop_is_told_of_a_wait_for_a_model_that_nobody_has_started(plane: Plane) -> None:
    queue = f"berth-{plane.settings.instance}"
    async with plane.post(chat(stream=True)) as answer:
        await answer.content.readline()
        await until(lambda: plane.redis.llen(queue) > 0, "a message for the control loop")
        (message,) = plane.redis.lrange(queue, 0, 0)
    headers = json.loads(message)["headers"]
    assert headers["task"] == "scheduler.tick" and headers["expires"]
