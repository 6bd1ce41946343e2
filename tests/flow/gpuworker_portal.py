"""A portal as a gpuworker sees it, and a gpuworker as Slurm starts it: a fake at the process boundary for tests.

The fake answers `/worker/v1` from lists a test fills and records every call. The gpuworker is the real thing: the
supervisor in its own process, with the environment a job script gives it.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
from aiohttp import web

from gpuworker import proctree, wire

T = TypeVar("T")
ROOT = Path(__file__).resolve().parent.parent.parent
KEY = "ingress-key-of-the-test"
TOKEN = "portal-token-of-the-test"
PILOT = "pilot-1"
WITHIN_S = 20.0


async def until(look: Callable[[], T | None], what: str | Callable[[], str], within_s: float = WITHIN_S) -> T:
    """The first truthy answer of `look`; fails with `what` after the time."""
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
    load_limit_s: float = 15.0,
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


def chat_body(text: str, *, stream: bool = False) -> str:
    return json.dumps({"model": "demo", "stream": stream, "messages": [{"role": "user", "content": text}]})


class FakePortal:
    """Answers are attributes; a test changes them while the gpuworker runs."""

    def __init__(self) -> None:
        self.answer = wire.SyncAnswer(
            desired=[], drain=False, deadline_at=None, cancels=[], interval_s=0.2, want_log=False
        )
        self.register_status = 200
        self.sync_status = 200
        self.results_status = 200
        self.registers: list[wire.Register] = []
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
        """The replica in the newest sync."""
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
        return self._say(self.answer, self.register_status)

    async def _sync(self, body: bytes) -> web.Response:
        self.syncs.append(wire.loads(wire.Sync, body))
        return self._say(self.answer, self.sync_status)

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
async def fake_portal() -> AsyncIterator[FakePortal]:
    portal = FakePortal()
    app = web.Application(client_max_size=64 * 2**20)
    app.router.add_post("/worker/v1/{verb}", portal._call)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    portal.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        yield portal
    finally:
        await runner.cleanup()


class Worker:
    """The supervisor as a process, and what a test asks of it."""

    def __init__(
        self, process: subprocess.Popen[bytes], portal: FakePortal, scratch: Path, log: Path
    ) -> None:
        self.process = process
        self.portal = portal
        self.scratch = scratch
        self.log = log

    @property
    def address(self) -> str:
        return self.portal.registers[-1].address

    def said(self) -> str:
        return self.log.read_text(errors="replace")

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    async def exit_code(self, within_s: float = WITHIN_S) -> int:
        await until(
            lambda: self.process.poll() is not None,
            f"the end of the gpuworker; log:\n{self.said()}",
            within_s,
        )
        assert self.process.returncode is not None
        return self.process.returncode

    def pids(self, module: str) -> list[int]:
        """Processes below the supervisor that run this Python module."""
        below = proctree.descendants(self.process.pid)
        return [pid for pid in below if command_of(pid)[1:3] == ["-m", module]]

    def wardens(self) -> list[int]:
        return [pid for pid in proctree.descendants(self.process.pid) if "-I" in command_of(pid)[:2]]

    async def engine_stats(self) -> dict[str, int]:
        socket = next(
            iter(sorted(self.scratch.glob("berth-*/*.sock"), key=lambda p: p.stat().st_mtime, reverse=True))
        )
        async with aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket))) as session:
            async with session.get("http://engine/stats") as answer:
                counts: dict[str, int] = await answer.json()
                return counts


def command_of(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def write_secret(folder: Path, portal_url: str, mode: int = 0o600) -> Path:
    path = folder / "secret.json"
    path.write_bytes(wire.dumps(wire.Secret(PILOT, portal_url, TOKEN, KEY)))
    path.chmod(mode)
    return path


@contextlib.contextmanager
def worker(
    portal: FakePortal, folder: Path, env: Mapping[str, str] | None = None, secret_mode: int = 0o600
) -> Iterator[Worker]:
    scratch = folder / "s"
    scratch.mkdir(exist_ok=True)
    log = folder / "job.log"
    secret = write_secret(folder, portal.url, secret_mode)
    given = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(ROOT),
        "SLURM_JOB_ID": "77",
        "SLURMD_NODENAME": "gpu01",
        "CUDA_VISIBLE_DEVICES": "0,1",
        "BERTH_SCRATCH": str(scratch),
        "BERTH_JOB_LOG": str(log),
        **(env or {}),
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gpuworker", "--secret", str(secret)],
            env=given,
            stdout=out,
            stderr=out,
            cwd="/",
        )
    try:
        yield Worker(process, portal, scratch, log)
    finally:
        left = proctree.descendants(process.pid)
        process.kill()
        process.wait()
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def fence(
    request: str = "q1", *, attempt: int = 1, replica: str = "r1", key: str = KEY, alone: bool = False
) -> dict[str, str]:
    headers = {
        wire.HEADER_KEY: key,
        wire.HEADER_REPLICA: replica,
        wire.HEADER_REQUEST: request,
        wire.HEADER_ATTEMPT: str(attempt),
        "Content-Type": "application/json",
    }
    return headers | ({wire.HEADER_ALONE: "1"} if alone else {})


@contextlib.asynccontextmanager
async def serving(
    folder: Path, *replicas: wire.DesiredReplica, env: Mapping[str, str] | None = None
) -> AsyncIterator[tuple[FakePortal, Worker, aiohttp.ClientSession]]:
    """A portal, a gpuworker whose replicas are hot, and a client."""
    async with fake_portal() as portal:
        portal.set(desired=list(replicas or [echo()]))
        with worker(portal, folder, env) as job:
            for replica in portal.answer.desired:
                await portal.state("hot", replica.id)
            async with aiohttp.ClientSession(base_url=job.address) as client:
                yield portal, job, client
