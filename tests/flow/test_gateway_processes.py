"""Two gateways as processes of their own, and kill -9 of one: no slot too many, nothing accepted is lost or runs for
ever, and what its clients come back for they find at the other.

`test_gateway_many` has the same in one process, where each step can be held; here nothing is pretended.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sys
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from devstack.ports import free_port

from portal.ledger import transitions
from tests.flow.batch_world import echoed
from tests.flow.dataplane import Plane, chat, until
from tests.flow.pilot_client import Pilot
from tests.flow.test_gateway_many import CAP, _watched
from tests.flow.test_workerapi_rows import _hot, _lease, _result, _send

ROOT = Path(__file__).resolve().parent.parent.parent
STALE_S = 2.0
START_S = 90.0
HURRY = {"x-stainless-read-timeout": "10.5"}  # held for a second


@dataclass
class Process:
    """One gateway, as uvicorn serves it in life."""

    url: str
    child: asyncio.subprocess.Process
    client: aiohttp.ClientSession

    async def kill(self) -> None:
        self.child.send_signal(signal.SIGKILL)
        await self.child.wait()


@contextlib.asynccontextmanager
async def _gateways(plane: Plane, count: int) -> AsyncIterator[list[Process]]:
    env = os.environ | {
        "PYTHONPATH": str(ROOT),
        "BERTH_DATABASE_URL": plane.settings.database_url,
        "BERTH_REDIS_URL": plane.settings.redis_url,
        "BERTH_SERVE": "gateway",
        "BERTH_HEARTBEAT_S": "0.3",
        "BERTH_HOLDER_STALE_S": str(STALE_S),
    }
    argv = [sys.executable, "-m", "uvicorn", "portal.asgi:application", "--log-level", "warning"]
    argv += ["--loop", "uvloop", "--http", "httptools", "--lifespan", "on"]
    argv += ["--ws", "portal.workerapi.link:Upgrade", "--port"]
    started: list[Process] = []
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as client:
        try:
            for port in (free_port() for _ in range(count)):
                child = await asyncio.create_subprocess_exec(*argv, str(port), env=env, cwd=ROOT)
                started.append(Process(f"http://127.0.0.1:{port}", child, client))
            async with asyncio.timeout(START_S):
                while [await _status(gateway) for gateway in started] != [200] * count:
                    await asyncio.sleep(0.05)
            yield started
        finally:
            for gateway in started:
                if gateway.child.returncode is None:
                    await gateway.kill()


async def _status(gateway: Process) -> int:
    try:
        async with gateway.client.get(gateway.url + "/healthz") as answer:
            return answer.status
    except aiohttp.ClientError:
        return 0


async def _ask(
    plane: Plane, gateway: Process, name: str, headers: dict[str, str] | None = None
) -> tuple[int, str, str]:
    """Ask, and return (status, body, request id); (0, "", "") where the connection broke."""
    url, said = gateway.url + "/v1/chat/completions", plane.headers() | (headers or {})
    try:
        async with gateway.client.post(url, json=chat(user=name), headers=said) as answer:
            return answer.status, await answer.text(), answer.headers["x-request-id"]
    except aiohttp.ClientError:
        return 0, "", ""


def _asking(plane: Plane, gateway: Process, name: str, **headers: str) -> asyncio.Task[Any]:
    return asyncio.create_task(_ask(plane, gateway, name, headers))


def _look(plane: Plane) -> int:
    """Do what the control loop does each tick about gateways that are silent; return how many rows it
    moved."""
    now = datetime.now(UTC)
    with plane.pg.cursor() as cur:
        moved = transitions.detach(cur, now - timedelta(seconds=STALE_S), now)
    plane.pg.commit()
    return len(moved)


async def _pull(pilot: Pilot, replica: str, plane: Plane) -> None:
    """Let a pilot run whatever nobody waits for."""
    live = "SELECT count(*) FROM ledger_request WHERE ended_at IS NULL"
    async with asyncio.timeout(START_S):
        while plane.sql(live) != [(0,)]:
            rows = await _lease(pilot, replica, room=50, wait_s=0.5)
            if rows:
                await _send(pilot, *(_result(row, body=echoed(row)) for row in rows))


async def test_one_of_two_is_killed_under_load(plane: Plane) -> None:
    counted = _watched(plane)
    replica = plane.route(CAP)
    async with _gateways(plane, 2) as (dying, living):
        lost = [_asking(plane, dying, f"dead-{i}") for i in range(100)]
        kept = [_asking(plane, living, f"live-{i}") for i in range(100)]
        await until(lambda: counted.runs.total() >= 60, "the work to be half-way", START_S)
        await dying.kill()
        # Its leases run out after 15 s; the rest of the room is used meanwhile.
        answers = await asyncio.gather(*kept)
        assert Counter(status for status, _, _ in answers) == {200: 100}
        assert counted.most[replica] <= CAP
        heard = [answer for answer in await asyncio.gather(*lost) if answer[0]]
        assert {status for status, _, _ in heard} == {200} and len(heard) < 100
        moved = await until(lambda: _look(plane), "its rows are everybody's")
        assert _look(plane) == 0, "the living one's would be next"
        held = "SELECT count(*) FROM ledger_request WHERE lane = 'held' AND ended_at IS NULL"
        await until(lambda: plane.sql(held) == [(0,)], "the ends of the others")
    pilot, pilots_own = await _hot(plane)
    await _pull(pilot, pilots_own, plane)
    ends = Counter(dict(plane.sql("SELECT lane || ' ' || state, count(*) FROM ledger_request GROUP BY 1")))
    assert ends["async done"] == moved and set(ends) == {"held done", "async done"}
    assert max(counted.runs.values()) == 1, "an ingress saw one twice"
    rows = {id_ for (id_,) in plane.sql("SELECT id::text FROM ledger_request")}
    assert {request for _, _, request in answers} <= rows and len(rows) >= 100 + moved


@pytest.mark.parametrize("noticed", [False, True], ids=["before it is noticed", "after it was noticed"])
async def test_a_ticket_of_a_killed_gateway_is_taken_up_at_the_other(plane: Plane, noticed: bool) -> None:
    async with _gateways(plane, 2) as (dying, living):
        status, _, first = await _ask(plane, dying, "a", HURRY)
        assert status == 503
        await until(lambda: plane.sql("SELECT 1 FROM ledger_ticket"), "the ticket")
        before = plane.row(first)
        await dying.kill()
        if noticed:
            await until(lambda: _look(plane) or (plane.row(first) or {})["lane"] == "async", "it is noticed")
        again = _asking(plane, living, "a", **{"x-stainless-retry-count": "1"})
        assert await plane.waiting() == [first]
        after = plane.row(first)
        assert before and after and after["order_key"] == before["order_key"]
        assert (after["lane"], after["holder"] != before["holder"]) == ("held", True)
        _look(plane)
        await plane.open()
        assert (await again)[::2] == (200, first)
        row = await plane.ended(first)
    assert (row["state"], row["attempt"]) == ("done", 1)
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(1,)]


@pytest.mark.parametrize("running", [False, True], ids=["in line", "running"])
async def test_a_key_finds_its_request_at_the_other_gateway(plane: Plane, running: bool) -> None:
    """Its gateway died with it; a pilot runs it; whoever comes back with the key is told that answer."""
    plane.ingress.gate.clear()
    async with _gateways(plane, 2) as (dying, living):
        asking = _asking(plane, dying, "a", **{"Idempotency-Key": "k"})
        (first,) = await plane.waiting()
        if running:
            await plane.open()
            await until(lambda: plane.ingress.running == 1, "it runs")
        await dying.kill()
        assert (await asking)[0] == 0
        again = _asking(plane, living, "a", **{"Idempotency-Key": "k"})
        await until(lambda: _look(plane), "it is noticed")
        pilot, replica = await _hot(plane)
        await _pull(pilot, replica, plane)
        status, text, request = await again
        assert (status, request) == (200, first) and '"hi"' in text
        assert (await _ask(plane, living, "b", {"Idempotency-Key": "k"}))[0] == 422
    assert plane.sql("SELECT count(*), max(attempt) FROM ledger_request") == [(1, 2 if running else 1)]
