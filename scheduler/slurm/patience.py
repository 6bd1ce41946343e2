"""A client of one way → the same, waited for no longer than the other ways can spare.

A command that hangs would hold the tick, and with it every cluster, until its own limit. Here it is left to itself after
a moment, which counts as no answer; until it has ended, nothing else is asked by that way, so that no submission under
way is taken for one that never was. Separate from the clients, which know of one way only.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from functools import partial
from typing import TypeVar

from scheduler.slurm.fan_out import forget, log_failure, run, start
from scheduler.slurm.protocol import (
    Jobs,
    NoAnswer,
    PartitionInfo,
    ReservationInfo,
    SlurmClient,
    SlurmError,
    UsageInfo,
)
from scheduler.slurm.render import BadDirective
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way

T = TypeVar("T")

WAIT_S = 5.0
_left_alone: dict[Way, Future[object]] = {}


def is_busy(way: Way) -> bool:
    """Tell whether a question that nobody waits for any more is still under way."""
    future = _left_alone.get(way)
    if future is not None and future.done():
        del _left_alone[way]
        return False
    return future is not None


class LeftAlone(NoAnswer):
    """An answer that nobody waits for any more, and that may come all the same."""


class Patient:
    """See SlurmClient; each verb raises NoAnswer after WAIT_S, too, and while an earlier one has not ended. What a client
    fails with that is no answer of Slurm's is none either: it holds its own profiles, and neither others nor the tick.
    `alone`: nobody else waits, so that each verb is waited for to its client's own limit."""

    def __init__(self, way: Way, client_for: Callable[[Way], SlurmClient], *, alone: bool = False) -> None:
        self._way = way
        self._client_for = client_for
        self._alone = alone

    def submit(self, script: str, spec: JobSpec) -> int:
        return self._wait("sbatch", lambda client: client.submit(script, spec))

    def jobs(self) -> Jobs:
        return self._wait("squeue", lambda client: client.jobs())

    def cancel(self, job_ids: list[int]) -> None:
        self._wait("scancel", lambda client: client.cancel(job_ids))

    def partitions(self) -> dict[str, PartitionInfo]:
        return self._wait("partitions", lambda client: client.partitions())

    def reservations(self) -> dict[str, ReservationInfo]:
        return self._wait("reservations", lambda client: client.reservations())

    def accounts(self) -> dict[str, list[str]]:
        return self._wait("accounts", lambda client: client.accounts())

    def estimate_start(self, spec: JobSpec) -> float:
        return self._wait("estimate", lambda client: client.estimate_start(spec))

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        return self._wait("accounting", lambda client: client.usage(job_ids))

    def log_tail(self, path: str, max_bytes: int) -> str:
        return self._wait("log", lambda client: client.log_tail(path, max_bytes))

    def forget(self, secret_path: str) -> None:
        self._wait("rm", lambda client: client.forget(secret_path))

    def _wait(self, what: str, verb: Callable[[SlurmClient], T]) -> T:
        way = self._way
        if is_busy(way):
            raise NoAnswer(f"{what}: {way.said} has not answered an earlier question yet")
        question = partial(self._ask, verb)
        future = run(question) if self._alone else start(question, way)
        if not wait([future], WAIT_S).done:
            _left_alone[way] = future  # type: ignore[assignment]
            forget(way)
            raise LeftAlone(f"{what}: no answer within {WAIT_S:g} s, and other clusters wait")
        error = future.exception()
        if error is None:
            return future.result()
        if isinstance(error, SlurmError | BadDirective):
            raise error
        log_failure(way, error)
        raise NoAnswer(f"{what}: the client failed: {type(error).__name__}: {error}"[:500]) from error

    def _ask(self, verb: Callable[[SlurmClient], T]) -> T:
        return verb(self._client_for(self._way))
