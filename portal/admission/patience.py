"""A question to Redis that may fail → its answer, asked again while Redis is away, for as long as a caller may be kept.

The only retry of this kind: whoever waits on a connection asks through it. Whoever does not wait is parked or takes
PostgreSQL's word instead.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

from portal.admission.pipe import QueueDown
from portal.errors import ApiError

PATIENCE_S = 10.0
TRY_AGAIN_S = 0.25
_COME_BACK_S = 10

T = TypeVar("T")


async def patiently(ask: Callable[[], Awaitable[T]]) -> T:
    """Return what `ask` returns once it raises QueueDown no more. Raise ApiError after PATIENCE_S of that."""
    until = time.monotonic() + PATIENCE_S
    while True:
        try:
            return await ask()
        except QueueDown:
            if time.monotonic() >= until:
                raise ApiError("queue_unavailable", retry_after_s=_COME_BACK_S) from None
            await asyncio.sleep(TRY_AGAIN_S)
