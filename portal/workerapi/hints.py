"""Redis messages "rows of this pool are waiting" → the lease polls that wait for that pool.

One subscription per process, whatever the number of pilots. A lost message costs a second: polls also look by
themselves (invariant 10).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Iterator

from portal.redis import keys
from portal.redis.subscription import listen


class Hint:
    """One poll's ear."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def ring(self) -> None:
        self._heard.set()

    async def wait(self, limit_s: float, left: asyncio.Event) -> None:
        """Wait until rung, until the client has left, or until the time is over."""
        waits = [asyncio.ensure_future(self._heard.wait()), asyncio.ensure_future(left.wait())]
        try:
            await asyncio.wait(waits, timeout=limit_s, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()


class Hints:
    def __init__(self, redis_url: str) -> None:
        self._url = redis_url
        self._waiting: dict[str, set[Hint]] = {}
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        listening = listen(self._url, "berth-rows", self._heard, patterns=[keys.ROWS.of("*")])
        self._task = asyncio.create_task(listening, name="row-hints")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def of(self, pools: Iterable[str]) -> Iterator[Hint]:
        """Listen before the caller looks, so that what comes between looking and waiting is not missed."""
        hint = Hint()
        names = list(pools)
        for pool in names:
            self._waiting.setdefault(pool, set()).add(hint)
        try:
            yield hint
        finally:
            for pool in names:
                self._waiting[pool].discard(hint)
                if not self._waiting[pool]:
                    del self._waiting[pool]

    def _heard(self, channel: str, _: bytes) -> None:
        for hint in self._waiting.get(channel.removeprefix(keys.ROWS.of("")), ()):
            hint.ring()
