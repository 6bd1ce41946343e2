"""One engine as processes on several nodes: a part here, under a warden, the others under helpers. It dies as a whole.

Looks like `process.EngineProcess` to whoever uses it. The first part that ends, here or elsewhere, ends all others: what
is left of a model whose layers are gone answers nothing, and would hang its clients.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol

from gpuworker.engines.process import EngineProcess
from gpuworker.engines.protocol import EngineExit

if TYPE_CHECKING:
    from gpuworker.remote import Part


class _Piece(Protocol):
    async def ended(self) -> EngineExit: ...

    async def stop(self, grace_s: float) -> None: ...


class Spread:
    def __init__(self, own: EngineProcess, parts: Sequence[Part]) -> None:
        self._own = own
        self._parts = parts
        self._all: tuple[_Piece, ...] = (own, *parts)
        self._stopping = False
        self._end = asyncio.create_task(self._watch(), name="engine over several nodes")

    @property
    def pid(self) -> int:
        return self._own.pid

    def running(self) -> bool:
        return self._own.running() and all(part.running() for part in self._parts)

    async def ended(self) -> EngineExit:
        """Return how the first part ended, once no part is left."""
        return await asyncio.shield(self._end)

    async def stop(self, grace_s: float) -> None:
        self._stopping = True
        await self._stop_all(grace_s)
        await asyncio.wait([self._end])

    def memory_mb(self) -> int:
        """Return the most that it holds on any node: what is asked for is asked for on each."""
        return max([self._own.memory_mb(), *(part.mem_mb for part in self._parts)])

    async def _watch(self) -> EngineExit:
        waits = [asyncio.create_task(part.ended()) for part in self._all]
        done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        # The head, dying of a rank that is gone, may be noticed in the same moment; the rank is the reason.
        first = next(wait for wait in reversed(waits) if wait in done).result()
        if not self._stopping:
            await self._stop_all(0)
        await asyncio.gather(*waits)
        return first

    async def _stop_all(self, grace_s: float) -> None:
        await asyncio.gather(*(part.stop(grace_s) for part in self._all))
