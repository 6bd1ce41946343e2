"""One replica: an engine, its seats and its connection pool, as a life that only moves forward.

    starting → hot → draining → stopped, or failed from any of them

`plan` decides the moves that somebody wants; this carries them out and adds those that happen of themselves
(healthy, died). Every move calls `changed`, so that the portal hears of it at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import aiohttp

from gpuworker.ahead import Ahead
from gpuworker.engines import make_engine
from gpuworker.engines.protocol import Engine, EngineError, EngineExit, EngineSpec
from gpuworker.plan import ENDED, Here
from gpuworker.seats import Seats, spare_seats
from gpuworker.wire import DesiredReplica, ObservedReplica, ObservedState

log = logging.getLogger("berth.replica")

STOP_GRACE_S = 5.0
ERROR_TAIL_BYTES = 4000
# Streams last as long as they last; only connecting to a local socket must be quick.
_NO_LIMIT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=None)

Lost = Literal["crash", "gone"]


class Replica:
    def __init__(
        self,
        want: DesiredReplica,
        gpus: list[str],
        python: str,
        folder: Path,
        name: str,
        changed: Callable[[], None],
    ) -> None:
        self.want = want
        self.state: ObservedState = "starting"
        self.created_at = time.time()
        self.started_at: float | None = None
        self.hot_at: float | None = None
        self.drain_at: float | None = None
        self.error = ""
        self.crashes = 0
        self.mem_mb = 0
        self.seats = Seats(want.cap, idle_since=None)
        self.ahead = Ahead(want.cap)
        self.log_path = folder / f"{name}.log"
        self._socket_path = folder / f"{name}.sock"
        self._gpus = gpus
        self._python = python
        self._changed = changed
        self._engine: Engine | None = None
        self._session: aiohttp.ClientSession | None = None
        self._exit: asyncio.Future[EngineExit] = asyncio.get_running_loop().create_future()
        self._stopping = False
        self._life = asyncio.create_task(self._live(), name=f"replica {want.id}")

    # What others ask.

    def here(self) -> Here:
        return Here(
            id=self.want.id,
            state=self.state,
            gpus=frozenset(self.want.gpus),
            in_flight=self.seats.in_flight,
            started_at=self.created_at,
            drain_at=self.drain_at,
            load_limit_s=self.want.load_limit_s,
            drain_limit_s=self.want.drain_limit_s,
        )

    def observed(self) -> ObservedReplica:
        engine = self._engine
        return ObservedReplica(
            id=self.want.id,
            pool=self.want.pool,
            model=self.want.model,
            state=self.state,
            phase=engine.phase if engine and self.state == "starting" else "",
            cap=self.want.cap,
            held=self.seats.held,
            filler=self.seats.filler,
            started_at=self.started_at,
            hot_at=self.hot_at,
            idle_since=self.seats.idle_since,
            error=self.error,
            crashes=self.crashes,
            mem_mb=self.mem_mb,
            engine_version=engine.version if engine else "",
            served=self.seats.served,
            busy_s=self.seats.busy_s,
        )

    @property
    def phase(self) -> str:
        return self._engine.phase if self._engine else ""

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "only a hot or draining replica is talked to"
        return self._session

    async def lost(self, within_s: float) -> Lost | None:
        """How the engine went away, or None when it is still there after `within_s`."""
        done, _ = await asyncio.wait([self._exit], timeout=within_s)
        if not done:
            return None
        return "crash" if self._exit.result().crashed and not self._stopping else "gone"

    async def measure(self) -> None:
        if self._engine and self.state not in ENDED:
            self.mem_mb = (await self._engine.stats()).mem_mb

    # What moves it.

    def drain(self, why: str) -> None:
        if self.state == "hot":
            self.drain_at = time.time()
            self._move("draining", why)

    async def stop(self, why: str, grace_s: float = STOP_GRACE_S, failed: bool = False) -> None:
        """Ends the engine; no process is left when this returns. Safe to call again, and more sternly."""
        self._stopping = True
        if self._engine:
            await self._engine.stop(grace_s)
        self._life.cancel()
        await asyncio.wait([self._life])
        if self._session:
            await self._session.close()
        if not self._exit.done():
            self._exit.set_result(EngineExit(0))
        if self.state not in ENDED:
            self.mem_mb = 0
            if failed:
                self._fail(why)
            else:
                self._move("stopped", why)

    @property
    def stopping(self) -> bool:
        return self._stopping

    async def _live(self) -> None:
        try:
            engine = self._engine = make_engine(self.want.engine, self._spec())
            self.started_at = time.time()
            await engine.start()
            self._changed()
            await engine.ready()
            await engine.warm_up()
        except EngineError as error:
            if not self._stopping:
                if self._engine:
                    await self._engine.stop(0)
                self._fail(str(error))
            return
        self._open()
        ended = await engine.ended()
        self._exit.set_result(ended)
        if not self._stopping:
            self.crashes += ended.crashed
            tail = engine.log_tail(ERROR_TAIL_BYTES).strip()
            await engine.stop(0)
            self._fail(f"the engine ended with exit code {ended.code}\n{tail}")

    def _spec(self) -> EngineSpec:
        want = self.want
        return EngineSpec(
            model=want.model,
            path=want.path,
            python=want.python or self._python,
            gpus=[self._gpus[i] for i in want.gpus if i < len(self._gpus)],
            cap=want.cap,
            seats=want.cap + spare_seats(want.cap),
            args=want.args,
            socket_path=self._socket_path,
            log_path=self.log_path,
        )

    def _open(self) -> None:
        if self.state != "starting":
            return
        # The seats bound the connections; engines keep idle ones open for longer than this end does.
        connector = aiohttp.UnixConnector(str(self._socket_path), limit=0, keepalive_timeout=60)
        self._session = aiohttp.ClientSession(
            base_url="http://engine",
            connector=connector,
            timeout=_NO_LIMIT,
            auto_decompress=False,
            skip_auto_headers=("Accept-Encoding", "User-Agent"),
        )
        self.hot_at = time.time()
        self.seats.idle_since = self.hot_at
        self._move("hot", "healthy")

    def _fail(self, why: str) -> None:
        self.error = why
        self.mem_mb = 0
        self._move("failed", why.partition("\n")[0])

    def _move(self, state: ObservedState, why: str) -> None:
        log.info("replica %s (%s): %s → %s: %s", self.want.id, self.want.model, self.state, state, why)
        self.state = state
        self._changed()
