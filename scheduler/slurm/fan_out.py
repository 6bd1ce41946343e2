"""One question to several ways at once → the answers that have come, each with the time at which it was asked.

A way that hangs must not make the tick wait for all: it is waited for shortly, and its answer, or its silence, is taken
by a later tick of the same process. Separate from the listing, because here are the loop's threads. Clients touch no
database, so no thread needs a connection.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from concurrent.futures import Future, wait
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

from scheduler.slurm.protocol import SlurmError, clean
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)

MOST_TOLD = 20_000  # characters of a traceback

T = TypeVar("T")

WAIT_S = 2.0  # for a way that answered last time, while there are others
WAIT_SILENT_S = 0.25  # for one that did not
# Beyond every client's own limit: whatever is asked so long ago will not answer any more.
LOST_S = 600.0


@dataclass(frozen=True, slots=True)
class Answered(Generic[T]):
    """An answer to one of several questions. `value` is None where there is none; `error` has the reason."""

    asked_at: float
    value: T | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class _Asked(Generic[T]):
    at: float  # by the caller's clock
    began: float  # monotonic
    future: Future[T]


_under_way: dict[Way, _Asked[object]] = {}


def ask(
    questions: Mapping[Way, Callable[[], T]], *, alone: bool, silent: Callable[[Way], str], now: float
) -> dict[Way, Answered[T]]:
    """Return what has been answered by now; a way that still thinks is missing and is not asked a second time.
    `silent`: why the way did not answer last time, "" when it did. `alone`: there is one way only, so nobody else waits
    while it is waited for to its client's own limit."""
    if alone:
        return {way: _settled(way, now, run(question)) for way, question in questions.items()}
    for way in [way for way, asked in _under_way.items() if time.monotonic() - asked.began > LOST_S]:
        del _under_way[way]
    for way, question in questions.items():
        if way not in _under_way:
            _under_way[way] = _Asked(now, time.monotonic(), start(question, way))
    asked = {way: _under_way[way] for way in questions}
    _wait([a.future for way, a in asked.items() if not silent(way)], WAIT_S)
    _wait([a.future for way, a in asked.items() if silent(way)], WAIT_SILENT_S)
    found: dict[Way, Answered[T]] = {}
    for way, one in asked.items():
        if one.future.done():
            del _under_way[way]
            found[way] = _settled(way, one.at, one.future)  # type: ignore[arg-type]
    return found


def _wait(futures: list[Future[object]], for_s: float) -> None:
    if futures:
        wait(futures, for_s)


def _settled(way: Way, at: float, future: Future[T]) -> Answered[T]:
    error = future.exception()
    if error is None:
        return Answered(at, future.result())
    if not isinstance(error, SlurmError):
        log_failure(way, error)
        return Answered(at, None, clean(f"The client failed: {type(error).__name__}: {error}", 500))
    return Answered(at, None, str(error))


def log_failure(way: Way, error: BaseException) -> None:
    """Log that a client failed in a way that nobody thought of: it holds its own profiles, and no others. Not by
    `exc_info`: whatever reads the log, half a surrogate pair in Slurm's words would break it."""
    told = "".join(traceback.format_exception(error))
    logger.error("%s: the client failed\n%s", way.said, clean(told, MOST_TOLD))


def forget(way: Way) -> None:
    """Take no answer to what was asked by this way before now: it may lack what was begun since."""
    _under_way.pop(way, None)


def start(question: Callable[[], T], way: Way) -> Future[T]:
    """Start a question in a thread that no exit waits for: its command ends at its own limit."""
    future: Future[T] = Future()
    answer = partial(run, question, future)
    threading.Thread(target=answer, name=f"ask {way.said}", daemon=True).start()
    return future


def run(question: Callable[[], T], future: Future[T] | None = None) -> Future[T]:
    """Return the future with the answer, or with what the question failed with."""
    future = future or Future()
    try:
        future.set_result(question())
    except Exception as error:  # noqa: BLE001 - it goes to whoever takes the answer
        future.set_exception(error)
    return future
