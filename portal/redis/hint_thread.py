"""An event loop's "look now" → a hint to Celery's tick or to those who look after batches.

A thread, because Celery's publishing blocks; a hint, so its failure is a line in the log and no more.
"""

from __future__ import annotations

import threading
from typing import Literal

LEAST_S = 0.2
MOST_S = 1.0  # where it is asked without end: telling Celery costs what about ten requests cost


class HintThread:
    """A thread that tells Celery to look, at most once in a while however often it is asked to."""

    def __init__(self, whom: Literal["tick", "batches"] = "tick") -> None:
        self._whom = whom
        self._wanted = threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hints-{whom}", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._wanted.set()

    def soon(self) -> None:
        """Have it told soon. Cost the caller nothing."""
        self._wanted.set()

    def _run(self) -> None:
        # Celery takes a third of a second to import: not in the way of the first request, nor of a page that
        # only wants to know what a gateway is.
        from portal.redis import hints

        pause_s = LEAST_S
        while True:
            pause_s = min(2 * pause_s, MOST_S) if self._wanted.is_set() else LEAST_S
            self._wanted.wait()
            if self._stopping.is_set():
                return
            self._wanted.clear()
            if self._whom == "batches":
                hints.batches_soon()
            else:
                hints.tick_soon()
            self._stopping.wait(pause_s)
