"""The sleep of one engine, verified: an engine that says that it slept, or that it woke, is not believed.

Once, before its replica is hot, the engine sleeps and wakes on trial: a fixed question must get the same answer
before and after, and its memory on the device must fall by more than half in between. Then each sleep is checked by
memory and each wake by the question. vLLM on the CPU answers success and frees nothing; on GPUs, releases of it have
leaked, or said garbage after some wakes, which is why there is a cap on them too.
"""

from __future__ import annotations

import logging
import time

from gpuworker.engines.protocol import Engine, EngineError, EngineFailed, NotOffered

log = logging.getLogger("berth.sleep")

MOST_WAKES = 20
LEAST_FREED = 0.5  # of what it held


class Spoiled(EngineError):
    """The engine is not what it was before it slept: only a new process may serve."""


class Sleeper:
    def __init__(self, engine: Engine, most_wakes: int = MOST_WAKES) -> None:
        self._engine = engine
        self._most_wakes = most_wakes
        self._answer = ""
        self._level = 0
        self.can_sleep = 0  # the deepest level that was seen to work
        self.wakes = 0  # the trial's too
        self.wake_s: float | None = None  # how long the last wake took, check included
        self.asleep_mem_mb = 0

    async def trial(self, level: int) -> None:
        """Try whether the engine can sleep, and set `can_sleep`. Raise Spoiled."""
        if level == 0:
            return
        self._engine.phase = "trying to sleep and wake"
        refusal = await self._unfit()
        if not refusal:
            try:
                await self.sleep(level)
            except NotOffered as error:
                log.warning("it does not sleep, it will be stopped instead: %s", error)
                return
            except EngineError as error:
                refusal = _first_line(error)
            # Whatever became of it: it must be awake and sound now.
            await self.wake()
        if refusal:
            log.warning("it does not sleep, it will be stopped instead: %s", refusal)
        elif self.wakes < self._most_wakes:
            self.can_sleep = level

    async def _unfit(self) -> str:
        """Return why there is no way to tell whether its sleep works; "" where there is one."""
        try:
            self._answer = await self._engine.canary()
            again = await self._engine.canary()
        except EngineError as error:
            return _first_line(error)
        if again != self._answer:
            return "it answers the same question differently each time, so that no wake could be checked"
        if not await self._engine.device_mb():
            return "nobody can say how much memory it holds on its device"
        return ""

    async def sleep(self, level: int) -> None:
        """Put the engine to sleep. Nothing may be in flight.

        Raise EngineError when it does not sleep, or holds what it held.
        """
        self._level = level
        before = await self._engine.device_mb()
        await self._engine.sleep(level)
        after = await self._engine.device_mb()
        self.asleep_mem_mb = (await self._engine.stats()).mem_mb
        if not before or after is None or before - after <= LEAST_FREED * before:
            raise EngineFailed(f"it says that it sleeps, and holds {after} MiB of its {before} MiB")

    async def wake(self) -> None:
        """Wake the engine, and check that its answer is what it was. Raise Spoiled."""
        began = time.monotonic()
        try:
            await self._engine.wake(self._level)
            self.wakes += 1
            sound = await self._engine.canary() == self._answer
        except EngineError as error:
            raise Spoiled(f"it did not wake: {_first_line(error)}") from None
        if not sound:
            raise Spoiled(f"its answers changed over wake {self.wakes}")
        self.wake_s = time.monotonic() - began
        if self.wakes >= self._most_wakes:
            log.info("%d wakes: it will be stopped next time, not put to sleep", self.wakes)
            self.can_sleep = 0


def _first_line(error: EngineError) -> str:
    return str(error).partition("\n")[0]
