"""A portal as a gpuworker sees it: a fake at the process boundary for tests.

It answers `/worker/v1` from lists a test fills and records every call.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, TypeVar

from aiohttp import web

from gpuworker import wire

T = TypeVar("T")
KEY = "ingress-key-of-the-test"
TOKEN = "portal-token-of-the-test"
PILOT = "pilot-1"
WITHIN_S = 60.0  # nothing that is tested takes seconds, but a busy machine may


async def until(look: Callable[[], T | None], what: str | Callable[[], str], within_s: float = WITHIN_S) -> T:
    """Wait for the first truthy answer of `look`, and return it; fail with `what` after the time."""
    end = time.monotonic() + within_s
    while not (found := look()):
        if time.monotonic() > end:
            raise AssertionError(f"not within {within_s:.0f} s: {what if isinstance(what, str) else what()}")
        await asyncio.sleep(0.01)
    return found


def echo(
    name: str = "r1",
    *,
    state: wire.DesiredState = "hot",
    cap: int = 4,
    drain_limit_s: float = 5.0,
    load_limit_s: float = 60.0,
    args: Mapping[str, Any] | None = None,
) -> wire.DesiredReplica:
    return wire.DesiredReplica(
        id=name,
        pool="p",
        model="demo",
        engine="echo",
        state=state,
        path="",
        python="",
        gpus=[],
        cap=cap,
        args=dict(args or {}),
        load_limit_s=load_limit_s,
        drain_limit_s=drain_limit_s,
    )


def row(
    request: str, text: str, *, attempt: int = 1, replica: str = "r1", alone: bool = False
) -> wire.LeasedRow:
    return wire.LeasedRow(
        request, attempt, replica, "/v1/chat/completions", alone, chat_body(text, stream=True)
    )


def chat_body(text: str, *, stream: bool = False) -> bytes:
    said = {"model": "demo", "stream": stream, "messages": [{"role": "user", "content": text}]}
    return json.dumps(said).encode()


class FakePortal:
    """A portal whose answers are attributes; a test changes them while the gpuworker runs."""

    def __init__(self) -> None:
        self.answer = wire.SyncAnswer(
            desired=[], drain=False, deadline_at=None, cancels=[], interval_s=0.2, want_log=False
        )
        self.register_status = 200
        self.sync_status = 200
        self.results_status = 200
        self.registers: list[wire.Register] = []
        self.clock_ahead_s = 0.0  # of the gpuworker's
        self.unreached: wire.Unreached | None = None  # the answer to `register`, while it stands here
        self.syncs: list[wire.Sync] = []
        self.asks: list[wire.LeaseAsk] = []
        self.results: list[wire.RowResult] = []
        self.refused_results = 0
        self.bad_tokens = 0
        self.rows: list[wire.LeasedRow] = []
        self._new_rows = asyncio.Condition()
        self.url = ""

    def set(self, **changes: Any) -> None:
        self.answer = dataclasses.replace(self.answer, **changes)

    async def put(self, *rows: wire.LeasedRow) -> None:
        async with self._new_rows:
            self.rows += rows
            self._new_rows.notify_all()

    def seen(self, replica: str = "r1") -> wire.ObservedReplica | None:
        """Return the replica in the newest sync."""
        return next((r for r in self.syncs[-1].replicas if r.id == replica), None) if self.syncs else None

    async def state(
        self, state: str, replica: str = "r1", within_s: float = WITHIN_S
    ) -> wire.ObservedReplica:
        def look() -> wire.ObservedReplica | None:
            seen = self.seen(replica)
            return seen if seen and seen.state == state else None

        return await until(
            look, lambda: f"replica {replica} {state}; last seen {self.seen(replica)}", within_s
        )

    async def result(self, request: str) -> wire.RowResult:
        return await until(
            lambda: next((r for r in self.results if r.request == request), None), f"a result of {request}"
        )

    async def _call(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.bad_tokens += 1
            return web.Response(status=401)
        return await getattr(self, f"_{request.match_info['verb']}")(await request.read())  # type: ignore[no-any-return]

    async def _register(self, body: bytes) -> web.Response:
        self.registers.append(wire.loads(wire.Register, body))
        if self.unreached is not None and not self.registers[-1].refusal:
            return web.Response(status=424, body=wire.dumps(self.unreached))
        return self._say(self._wishes(), self.register_status)

    async def _sync(self, body: bytes) -> web.Response:
        self.syncs.append(wire.loads(wire.Sync, body))
        return self._say(self._wishes(), self.sync_status)

    def _wishes(self) -> wire.SyncAnswer:
        return dataclasses.replace(self.answer, at=time.time() + self.clock_ahead_s)

    async def _lease(self, body: bytes) -> web.Response:
        ask = wire.loads(wire.LeaseAsk, body)
        self.asks.append(ask)
        room = dict(ask.room)
        async with self._new_rows:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(
                    self._new_rows.wait_for(lambda: any(room.get(r.replica) for r in self.rows)), ask.wait_s
                )
            given = []
            for waiting in list(self.rows):
                if room.get(waiting.replica, 0) > 0:
                    room[waiting.replica] -= 1
                    self.rows.remove(waiting)
                    given.append(waiting)
        return self._say(wire.LeaseAnswer(given))

    async def _results(self, body: bytes) -> web.Response:
        if self.results_status != 200:
            self.refused_results += 1
            return web.Response(status=self.results_status)
        message = wire.loads(wire.Results, body)
        self.results += message.results
        return self._say(wire.ResultsAnswer(taken=[r.request for r in message.results], late=[]))

    def _say(self, answer: Any, status: int = 200) -> web.Response:
        return web.Response(body=wire.dumps(answer)) if status == 200 else web.Response(status=status)


@contextlib.asynccontextmanager
async def fake_portal(host: str = "127.0.0.1") -> AsyncIterator[FakePortal]:
    portal = FakePortal()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/worker/v1/{verb}", portal._call)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, host, 0)
    await site.start()
    portal.url = f"http://{f'[{host}]' if ':' in host else host}:{runner.addresses[0][1]}"
    try:
        yield portal
    finally:
        await runner.cleanup()
