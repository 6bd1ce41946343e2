"""Requests for a model that is not there, or has no room: accepted, in line, granted, answered once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from tests.flow.dataplane import Plane, both_links_nightly, chat, until

pytestmark = both_links_nightly


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


async def _arrives(plane: Plane) -> str:
    """Make a replica for those who wait: its job was pending for 200 s and its engine loaded for 30 s,
    until now."""
    pilot = plane.new_pilot()
    replica = plane.new_replica(pilot, "hot")
    plane.sql(
        """UPDATE fleet_pilot SET submitted_at = now() - interval '240 s', job_started_at = now() - interval '40 s',
             gpu_type = 'a100' WHERE id = %s""",
        (pilot,),
    )
    plane.sql(
        """UPDATE fleet_replica SET started_at = now() - interval '30 s', engine_version = '0.32' WHERE id = %s""",
        (replica,),
    )
    # Whoever waits has waited for five minutes.
    plane.sql("UPDATE ledger_request SET accepted_at = accepted_at - interval '300 s'")
    plane.set_route(replica, pilot)
    await plane.gateway.slots.fill("demo")
    return replica


async def test_headers_say_what_of_the_wait_was_slurms_and_what_the_loads(plane: Plane) -> None:
    asking = asyncio.create_task(plane.post().__aenter__())
    await plane.waiting()
    await _arrives(plane)
    async with await asking as answer:
        request, said = answer.headers["x-request-id"], answer.headers
    assert abs(int(said["x-berth-slurm-ms"]) - 200_000) < 10_000
    assert abs(int(said["x-berth-load-ms"]) - 30_000) < 10_000
    assert int(said["x-berth-queue-ms"]) < 10_000
    row = await plane.ended(request)
    assert (row["engine_version"], row["gpu_type"]) == ("0.32", "a100")
    assert round(1000 * row["slurm_s"]) - int(said["x-berth-slurm-ms"]) in (0, 1)


async def test_a_stream_whose_headers_are_out_says_it_in_an_event(plane: Plane) -> None:
    async with plane.post(chat(stream=True)) as answer:
        assert "position" in json.loads((await answer.content.readline()).removeprefix(b": berth "))
        await _arrives(plane)
        text = (await answer.read()).decode()
    assert "x-berth-slurm-ms" not in answer.headers
    beats = [json.loads(line.removeprefix(": berth ")) for line in text.split("\n") if line[:1] == ":"]
    (said,) = [beat for beat in beats if "slurm_ms" in beat]
    assert set(said) == {"queue_ms", "slurm_ms", "load_ms"} and abs(said["slurm_ms"] - 200_000) < 10_000
    assert text.index("slurm_ms") < text.index('"content":"hello"')


async def test_a_request_that_ran_at_once_says_its_queue_alone(plane: Plane) -> None:
    plane.route()
    async with plane.post() as answer:
        assert 0 <= int(answer.headers["x-berth-queue-ms"]) < 10_000
        assert not {"x-berth-slurm-ms", "x-berth-load-ms"} & set(answer.headers)
