"""Wishes to have a folder looked at → reports that each sync carries until the portal has heard them.

Separate from `inspection` because a file system may take its time: it is read in a thread of its own, one folder after
the other, and never keeps the agent from anything.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor

from gpuworker import devices
from gpuworker.inspection import NotInspected, inspect
from gpuworker.wire import Inspected, InspectWish

log = logging.getLogger("berth.inspector")


class Inspector:
    """The inspections that the portal wishes for; `changed` is called when a report is there."""

    def __init__(self, changed: Callable[[], None]) -> None:
        self._changed = changed
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._reports: dict[int, Inspected] = {}
        self._thread = ThreadPoolExecutor(1, "inspector")

    @property
    def reports(self) -> list[Inspected]:
        return list(self._reports.values())

    def want(self, wishes: Collection[InspectWish]) -> None:
        """Begin what is new and forget what nobody asks for any more."""
        wanted = {wish.id for wish in wishes}
        for gone in self._tasks.keys() - wanted:
            del self._tasks[gone]
            self._reports.pop(gone, None)
        for wish in wishes:
            if wish.id not in self._tasks:
                self._tasks[wish.id] = asyncio.create_task(self._look(wish), name=f"inspect {wish.id}")

    def stop(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _look(self, wish: InspectWish) -> None:
        report = await asyncio.get_running_loop().run_in_executor(self._thread, report_on, wish)
        log.info("%s was looked at: %s", wish.path, report.error or "a model")
        if wish.id in self._tasks:
            self._reports[wish.id] = report
            self._changed()


def report_on(wish: InspectWish) -> Inspected:
    """Report on one folder. Blocks. A folder that surprises us is a report like any other."""
    try:
        return Inspected(wish.id, "", inspect(wish.path, wish.roots, devices.least_memory_mb()))
    except NotInspected as refusal:
        return Inspected(wish.id, str(refusal), None)
    except Exception as error:
        log.exception("looking at %s", wish.path)
        return Inspected(wish.id, f"It could not be looked at: {type(error).__name__}: {error}", None)
