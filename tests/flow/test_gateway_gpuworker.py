"""Gateway, worker API and the real gpuworker with its echo engine: held and pulled requests, drains and deaths."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path

from gpuworker import proctree, wire
from portal.redis import keys
from tests.flow.dataplane import Plane, both_links, chat, until
from tests.flow.gpuworker_job import START_S, job, planned
from tests.flow.test_workerapi_rows import _put

pytestmark = both_links


async def test_cold_request_hot_request_async_row_and_a_drain(plane: Plane, tmp_path: Path) -> None:
    pilot, replica = planned(plane)
    async with plane.post(chat(stream=True)) as answer:
        assert (await answer.content.readline()).startswith(b": berth ")
        with job(plane, pilot, tmp_path, plane.link) as running:
            async with asyncio.timeout(START_S):
                text = await answer.text()
            assert text.endswith("data: [DONE]\n\n") and '"usage"' not in text
            cold = await plane.ended(answer.headers["x-request-id"])
            assert (cold["state"], cold["replica"], cold["attempt"]) == ("done", replica, 1)
            assert cold["completion_tokens"] > 0

            async with plane.post() as hot_answer:
                assert hot_answer.status == 200
            ((_, route),) = plane.redis.hgetall(keys.ROUTES.of("demo")).items()
            assert (wire.REVERSE in str(route)) == (plane.link == "reverse")
            hot = await plane.ended(hot_answer.headers["x-request-id"])
            assert (hot["state"], hot["replica"]) == ("done", replica)

            (id_,) = _put(plane)
            plane.redis.publish(keys.ROWS.of("demo"), "look")
            pulled = await plane.ended(id_)
            assert (pulled["state"], pulled["holder"], pulled["lane"]) == ("done", pilot, "async")
            ((result,),) = plane.sql("SELECT result FROM ledger_payload WHERE request = %s", (id_,))
            assert b"choices" in bytes(result)

            plane.sql("UPDATE fleet_pilot SET state = 'draining', draining_at = now()")
            plane.sql("UPDATE fleet_replica SET state = 'draining', draining_at = now()")
            await until(lambda: running.poll() is not None, "the end of the drained job", START_S)
    assert plane.sql("SELECT state FROM fleet_replica") == [("stopped",)]
    assert plane.sql("SELECT said_ending <> '' FROM fleet_pilot WHERE id = %s", (pilot,)) == [(True,)]
    assert not plane.redis.exists(keys.ROUTES.of("demo"))


async def test_more_than_the_cap_wait_their_turn(plane: Plane, tmp_path: Path) -> None:
    pilot, replica = planned(plane)
    with job(plane, pilot, tmp_path, plane.link):
        await until(lambda: plane.redis.exists(keys.ROUTES.of("demo")), "a route", START_S)

        async def ask() -> int:
            async with plane.post() as answer:
                await answer.read()
                return int(answer.status)

        assert await asyncio.gather(*(ask() for _ in range(20))) == [200] * 20
    counts = "SELECT state, count(*) FROM ledger_request GROUP BY 1"
    await until(lambda: plane.sql(counts) == [("done", 20)], "twenty done")
    await until(lambda: plane.slots(replica) == 0, "no slot in use")


async def _keep_a_replica(plane: Plane, pilot: str) -> None:
    """Do what the control loop does about a replica that failed."""
    while True:
        if not plane.sql("SELECT 1 FROM fleet_replica WHERE state NOT IN ('stopped', 'failed')"):
            plane.new_replica(pilot, cap=2)
        await asyncio.sleep(0.1)


async def test_an_engine_that_dies_under_a_request_does_not_take_it_along_for_ever(
    plane: Plane, tmp_path: Path
) -> None:
    pilot, _ = planned(plane, '{"load_s": 0.2, "crash_on_text": "BOOM"}')
    with job(plane, pilot, tmp_path, plane.link):
        await until(lambda: plane.redis.exists(keys.ROUTES.of("demo")), "a route", START_S)
        loop = asyncio.create_task(_keep_a_replica(plane, pilot))
        asking = asyncio.create_task(
            plane.post(chat(messages=[{"role": "user", "content": "BOOM"}])).__aenter__()
        )
        async with asyncio.timeout(START_S):
            async with await asking as answer:
                assert answer.status == 500
                assert (await answer.json())["error"]["code"] == "poison"
        row = await plane.ended(answer.headers["x-request-id"])
        assert (row["state"], row["crashes"]) == ("failed", 3)
        # Its neighbours go on.
        async with asyncio.timeout(START_S):
            async with plane.post() as well:
                assert well.status == 200
        loop.cancel()
    assert plane.sql("SELECT count(*) FROM fleet_replica WHERE state = 'failed'") == [(3,)]


async def test_a_job_that_is_killed_leaves_its_request_to_the_next(plane: Plane, tmp_path: Path) -> None:
    pilot, _ = planned(plane, '{"load_s": 0.2, "hang_on_text": "WAIT"}')
    asked = chat(messages=[{"role": "user", "content": "WAIT"}])
    with job(plane, pilot, tmp_path, plane.link) as running:
        await until(lambda: plane.redis.exists(keys.ROUTES.of("demo")), "a route", START_S)
        asking = asyncio.create_task(plane.post(asked).__aenter__())
        await until(lambda: plane.gateway.keeper.in_hand == 1, "it runs")
        await asyncio.sleep(0.3)  # it has reached the engine, which says nothing
        left = proctree.descendants(running.pid)
        running.kill()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    (request,) = await plane.waiting()
    row = plane.row(request)
    assert row is not None and (row["state"], row["crashes"]) == ("queued", 0)
    await plane.open()
    async with await asking as answer:
        assert answer.status == 200
    assert (await plane.ended(request))["state"] == "done"
