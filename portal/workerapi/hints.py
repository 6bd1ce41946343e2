"""Redis messages "rows of this pool are waiting" → the lease polls that wait for that pool.

One subscription per process, whatever the number of pilots. A lost message costs a second: polls also look by
themselves (invariant 10).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterable, Iterator

import redis.asyncio as redis_async
from redis.exceptions import RedisError

from portal.redis import keys

log = logging.getLogger(__name__)


class Hint:
    """One poll's ear."""

    def __init__(self) -> None:
        self._heard = asyncio.Event()

    def ring(self) -> None:
        self._heard.set()

    async def wait(self, limit_s: float, left: asyncio.Event) -> None:
        """Until rung, the client has left, or the time is over."""
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
        self._task = asyncio.create_task(self._listen(), name="lease-hints")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    @contextlib.contextmanager
    def of(self, pools: Iterable[str]) -> Iterator[Hint]:
        """Listens before the caller looks, so that what comes between looking and waiting is not missed."""
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

    async def _listen(self) -> None:
        pause_s = 0.1
        while True:
            client = redis_async.Redis.from_url(self._url, protocol=2, socket_keepalive=True)
            try:
                async with client.pubsub(ignore_subscribe_messages=True) as channel:
                    await channel.psubscribe(keys.ROWS.of("*"))
                    async for message in channel.listen():
                        pause_s = 0.1
                        pool = message["channel"].decode().removeprefix(keys.ROWS.of(""))
                        for hint in self._waiting.get(pool, ()):
                            hint.ring()
            except (RedisError, OSError) as error:
                log.warning("hints: Redis: %s; again in %.1f s", error, pause_s)
            finally:
                await client.aclose()
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, 2.0)
