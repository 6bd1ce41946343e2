"""One replica: an engine, its seats and its connection pool, as a life that only moves forward.

    starting → hot → draining → stopped, or failed from any of them
                        └→ asleep → starting (woken; with a new engine when the old one does not wake)

`plan` decides the moves that somebody wants; this carries them out and adds those that happen of themselves
(healthy, died). Every move calls `changed`, so that the portal hears of it at once.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Literal

import aiohttp

from gpuworker.ahead import Ahead
from gpuworker.bringup import BringUp, Nearest
from gpuworker.engines.protocol import Engine, EngineError, EngineExit
from gpuworker.nodes import Nodes
from gpuworker.plan import ENDED, Here
from gpuworker.seats import Seats
from gpuworker.sleep import Sleeper, Spoiled
from gpuworker.wire import DesiredReplica, ObservedReplica, ObservedState, Start

log = logging.getLogger("berth.replica")

STOP_GRACE_S = 5.0
ERROR_TAIL_BYTES = 4000

Lost = Literal["crash", "gone"]


class Replica:
    def __init__(
        self,
        want: DesiredReplica,
        nodes: Nodes,
        python: str,
        nearest: Nearest,
        folder: Path,
        name: str,
        changed: Callable[[], None],
    ) -> None:
        self.want = want
        self.state: ObservedState = "starting"
        self._begun_at = time.time()
        self.started_at: float | None = None
        self.hot_at: float | None = None
        self.drain_at: float | None = None
        self.error = ""
        self.crashes = 0
        self.mem_mb = 0
        self.seats = Seats(want.cap, idle_since=None)
        self.ahead = Ahead(want.cap)
        self.log_path = folder / f"{name}.log"
        self._changed = changed
        self._up = BringUp(want, nodes, python, nearest, folder / f"{name}.sock", self.log_path)
        self._wakes = 0
        self._turning = ""  # going to sleep or waking, in words for people
        self._start: Start = "load"
        self._turn: asyncio.Task[None] | None = None
        self._anew = False  # its engine is ended so that another takes its place
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
            started_at=self._begun_at,
            drain_at=self.drain_at,
            load_limit_s=self.want.load_limit_s,
            drain_limit_s=self.want.drain_limit_s,
            can_sleep=self._can_sleep,
            turning=bool(self._turning),
        )

    def observed(self) -> ObservedReplica:
        engine, sleeper = self._up.engine, self._up.sleeper
        return ObservedReplica(
            id=self.want.id,
            pool=self.want.pool,
            model=self.want.hosted[0].name,
            state=self.state,
            phase=self.phase if self.state == "starting" else self._turning,
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
            can_sleep=self._can_sleep,
            asleep_mem_mb=sleeper.asleep_mem_mb if sleeper and self.state == "asleep" else 0,
            wakes=self._wakes,
            wake_s=sleeper.wake_s if sleeper else None,
            start=self._start,
        )

    @property
    def _can_sleep(self) -> int:
        return self._up.sleeper.can_sleep if self._up.sleeper else 0

    @property
    def phase(self) -> str:
        return self._turning or (self._up.engine.phase if self._up.engine else "")

    @property
    def session(self) -> aiohttp.ClientSession:
        assert self._session is not None, "only a hot or draining replica is talked to"
        return self._session

    async def lost(self, within_s: float) -> Lost | None:
        """Return how the engine went away, or None when it is still there after `within_s`."""
        done, _ = await asyncio.wait([self._exit], timeout=within_s)
        if not done:
            return None
        return "crash" if self._exit.result().crashed and not self._stopping else "gone"

    async def measure(self) -> None:
        if self._up.engine and self.state not in ENDED:
            self.mem_mb = (await self._up.engine.stats()).mem_mb

    # What moves it.

    def drain(self, why: str) -> None:
        if self.state == "hot":
            self.drain_at = time.time()
            self._move("draining", why)

    def sleep(self, level: int) -> None:
        """Go from draining to asleep, or to stopped when its engine does not sleep."""
        assert self._up.sleeper is not None
        self._begin("going to sleep", self._fall_asleep(self._up.sleeper, level))

    def wake(self) -> None:
        """Go from asleep by starting to hot, if need be with a new engine."""
        assert self._up.engine is not None and self._up.sleeper is not None
        self._begun_at = self.started_at = time.time()
        self.hot_at = None
        self._wakes += 1
        self._start = "wake"
        self._begin("waking", self._wake_up(self._up.engine, self._up.sleeper))
        self._move("starting", "woken")

    def _begin(self, words: str, turn: Coroutine[None, None, None]) -> None:
        self._turning = words
        self._turn = asyncio.create_task(turn, name=f"{words}: replica {self.want.id}")
        self._changed()

    async def _fall_asleep(self, sleeper: Sleeper, level: int) -> None:
        try:
            await sleeper.sleep(level)
        except EngineError as error:
            self.error = f"It was stopped, because it could not sleep: {error}"
            await self.stop("it could not sleep", 0)
            return
        finally:
            self._turning = ""
        # One that died of it is `_ended`'s.
        if self.state == "draining":
            self._move("asleep", f"level {level}")

    async def _wake_up(self, engine: Engine, sleeper: Sleeper) -> None:
        try:
            await sleeper.wake()
        except Spoiled as error:
            self._anew = True
            self._start = "load"
            self._begun_at = time.time()
            await self._up.spoiled(engine, error)
            return
        finally:
            self._turning = ""
        self._open()

    async def stop(self, why: str, grace_s: float = STOP_GRACE_S, failed: bool = False) -> None:
        """End the engine; no process is left when this returns. It is safe to call again, and more
        sternly."""
        self._stopping = True
        if self._turn and self._turn is not asyncio.current_task():
            self._turn.cancel()
            await asyncio.wait([self._turn])
        if self._up.engine:
            await self._up.engine.stop(grace_s)
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
            await self._lives()
        except Exception as error:
            # Nobody awaits this task: the portal has to hear of it, or it sends requests to nothing.
            log.exception("replica %s", self.want.id)
            if self._up.engine:
                await self._up.engine.stop(0)
            if not self._exit.done():
                self._exit.set_result(EngineExit(1))
            if self.state not in ENDED:
                self._fail(f"the agent cannot go on with it: {type(error).__name__}: {error}")

    async def _lives(self) -> None:
        while (engine := await self._bring_up()) is not None:
            ended = await engine.ended()
            if self._turn:
                # It has the word on what becomes of an engine that dies of sleeping or waking.
                await asyncio.wait([self._turn])
            if not self._anew:
                await self._ended(engine, ended)
                return

    async def _bring_up(self) -> Engine | None:
        """Bring up an engine that serves; return None when there will be none."""
        self._anew = False
        try:
            engine, _ = await self._up.run(self._begun)
        except EngineError as error:
            if not self._stopping:
                if self._up.engine:
                    await self._up.engine.stop(0)
                self._fail(str(error))
            return None
        self._open()
        return engine

    def _begun(self) -> None:
        self.started_at = time.time()
        self._changed()

    async def _ended(self, engine: Engine, ended: EngineExit) -> None:
        self._exit.set_result(ended)
        if not self._stopping:
            self.crashes += ended.crashed
            tail = engine.log_tail(ERROR_TAIL_BYTES).strip()
            await engine.stop(0)
            how = (
                f"the engine ended: {ended.why}"
                if ended.why
                else f"the engine ended with exit code {ended.code}"
            )
            self._fail(f"{how}\n{tail}")

    def _open(self) -> None:
        if self.state != "starting":
            return
        if self._session is None:
            self._session = self._up.connected()
        self.hot_at = time.time()
        self.seats.idle_since = self.hot_at
        self._move("hot", "healthy")

    def _fail(self, why: str) -> None:
        self.error = why
        self.mem_mb = 0
        self._move("failed", why.partition("\n")[0])

    def _move(self, state: ObservedState, why: str) -> None:
        log.info(
            "replica %s (%s): %s → %s: %s", self.want.id, self.want.hosted[0].name, self.state, state, why
        )
        self.state = state
        self._changed()
