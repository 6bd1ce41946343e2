"""Waiting for an event or a time, whichever comes first: every loop of the agent, because a wake-up is a hint.

And what nobody waits for: `log_failure`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

log = logging.getLogger("berth.tasks")


async def woken(event: asyncio.Event, within_s: float) -> bool:
    """Tell whether the event came within `within_s`.

    It is not asyncio.wait_for: in Python 3.11 that swallows a cancellation which comes together with the
    event, and a loop that should end goes on.
    """
    try:
        async with asyncio.timeout(within_s):
            await event.wait()
    except TimeoutError:
        return False
    return True


def log_failure(task: asyncio.Task[Any]) -> None:
    """Log what ended a task that nobody awaits, as its `add_done_callback`; else that is told when it is collected."""
    if not task.cancelled() and (error := task.exception()):
        log.error("%s: %s", task.get_name(), type(error).__name__, exc_info=error)
