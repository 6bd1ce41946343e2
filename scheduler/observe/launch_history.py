"""The launches of the last day → how many failed in a row, per pool. What the failure latch reckons with.

Separate from the view, because what counts as a failure is a rule of its own: pure in `failures_in_a_row`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max

from portal.fleet.models import Command, Replica
from portal.fleet.states import ReplicaState
from scheduler.moments import seconds
from scheduler.policy.views import Failure

# How far back failures in a row are looked for. A latch outlives it: it is stored.
HISTORY = timedelta(days=1)
# A replica that dies this soon after it was hot is a launch that failed.
SETTLED_S = 300.0


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica of the past."""

    failed: bool
    hot_at: float | None
    ended_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Past:
    launches: tuple[Launch, ...] = ()
    cleared_at: float = 0.0  # the last relaunch command


def failures_in_a_row(past: Past) -> tuple[Failure, ...]:
    """Return failed launches since the last one that went well or the last time a person cleared them. Pure."""
    since = past.cleared_at
    failed = []
    for launch in past.launches:
        lasted_s = (launch.ended_at or 0.0) - launch.hot_at if launch.hot_at is not None else 0.0
        if launch.failed and launch.ended_at is not None:
            failed.append(Failure(launch.ended_at, launch.reason))
            if lasted_s > SETTLED_S:
                since = max(since, launch.ended_at)
        elif launch.hot_at is not None:
            since = max(since, launch.hot_at)
    return tuple(sorted((f for f in failed if f.at > since), key=lambda failure: failure.at))


def pasts(now: float) -> dict[str, Past]:
    """Return the launches of the last day and the last relaunch, by pool."""
    after = datetime.fromtimestamp(now, UTC) - HISTORY
    launches: dict[str, list[Launch]] = defaultdict(list)
    rows: Iterable[Any] = Replica.objects.filter(wanted_at__gt=after).values_list(
        "pool_id", "state", "hot_at", "ended_at", "end_reason"
    )
    for pool, state, hot_at, ended_at, reason in rows:
        failed = state == ReplicaState.FAILED
        launches[pool].append(Launch(failed, seconds(hot_at), seconds(ended_at), _brief(reason)))
    cleared = dict(
        Command.objects.filter(kind=Command.Kind.RELAUNCH, state=Command.State.DONE, done_at__gt=after)
        .values_list("pool_id")
        .annotate(Max("done_at"))
    )
    found: dict[str, Past] = defaultdict(Past)
    for pool in {*launches, *cleared}:
        found[pool] = Past(tuple(launches[pool]), seconds(cleared.get(pool)) or 0.0)
    return found


def _brief(reason: str) -> str:
    """Return the first line: what follows is the engine's log, for operators."""
    line = reason.strip().splitlines()[0] if reason.strip() else ""
    return line[:300]
