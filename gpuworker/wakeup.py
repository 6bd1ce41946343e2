"""Waiting for an event or a time, whichever comes first: every loop of the agent, because a wake-up is a hint."""

from __future__ import annotations

import asyncio


async def woken(event: asyncio.Event, within_s: float) -> bool:
    """Whether the event came. Not asyncio.wait_for: in Python 3.11 that swallows a cancellation which comes
    together with the event, and a loop that should end goes on."""
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True
