"""The calls that this gateway serves on connections → each can be broken off: its client left, or its owner cancelled it.

Separate from the flows that serve them and from what listens for cancellations, so that neither has to know the other.
"""

from __future__ import annotations

import asyncio
from typing import Any

from portal.gateway.call import Call, Stop


class LiveCalls:
    def __init__(self) -> None:
        self._served: dict[str, tuple[Call, asyncio.Task[Any]]] = {}

    def enter(self, call: Call) -> None:
        """Serve the call in the current task from now on, and watch whether its client leaves."""
        task = asyncio.current_task()
        assert task is not None
        self._served[call.request] = call, task
        call.ex.watch_soon(lambda: _stop(call, task, "left"))

    def leave(self, call: Call) -> None:
        """Serve it no more: whatever was to break it off comes too late."""
        call.ex.unwatch()
        self._served.pop(call.request, None)

    def cancel(self, request: str) -> None:
        """Break off a request that its owner has cancelled through the API; its row says so already."""
        if served := self._served.get(request):
            _stop(*served, "cancelled")


def _stop(call: Call, task: asyncio.Task[Any], why: Stop) -> None:
    """Break off whatever is being awaited for the call; its flow then ends it."""
    progress = call.progress
    if not progress.stopped and not progress.ended:
        progress.stopped = why
        task.cancel()
