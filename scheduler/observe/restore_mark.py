"""Was the database put back to an earlier time? A mark outside of it knows.

After a restore the tables know less than Slurm does: jobs run that no row names. Cancelling them as orphans, or
launching their like a second time, would both be wrong, so the fleet starts paused and a person decides
(invariant 2). The mark is the time of the last good tick, kept in the state folder, which no dump holds.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from pathlib import Path

from portal.config import Config
from portal.fleet.models import Cluster
from scheduler.observe.listing import Listings
from scheduler.observe.unknown_jobs import UnknownJob
from scheduler.policy.consequences import PauseCluster
from scheduler.policy.decisions import Inputs


@dataclass(frozen=True, slots=True)
class Behind:
    """The tables are older than this installation's last tick, which was found at `since` (UNIX seconds). `heard`:
    names of the ways that have told since which jobs there are."""

    since: float
    heard: frozenset[str] = frozenset()


def look(cluster: Cluster, config: Config, now: float) -> Behind | None:
    """Return that the tables have forgotten a tick that was there, or None. Asked before a tick writes; the mark follows
    the row, so that no crash looks like this. What is found is marked at once: a tick that dies finds it again."""
    try:
        mark = json.loads(_mark(config, cluster).read_text())
        behind, marked_at = bool(mark["behind"]), float(mark["ticked_at"])
        since = float(mark.get("since", "inf"))
        heard = frozenset(map(str, mark.get("heard", ())))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if behind:
        return Behind(since, heard)
    if cluster.ticked_at is not None and cluster.ticked_at.timestamp() >= marked_at:
        return None
    found = Behind(now)
    remember(cluster, config, found)
    return found


def deal(
    cluster: Cluster, behind: Behind, found: Iterable[UnknownJob], listings: Listings
) -> tuple[PauseCluster | None, Behind | None]:
    """Return the pause for what ways show that are heard for the first time since, and what is left to be heard: once
    every way was, a person has decided or nothing was missing. Pure. An answer that a tick heard which died before it
    had paused the cluster counts, too."""
    fresh = {
        way
        for way, one in listings.items()
        if way.name not in behind.heard and (one.taken_now or (one.answered_at or 0.0) >= behind.since)
    }
    heard = behind.heard | {way.name for way in fresh}
    left = None if listings and heard >= {way.name for way in listings} else replace(behind, heard=heard)
    return _pause(cluster, [job for job in found if job.job.way in fresh]), left


def remember(cluster: Cluster, config: Config, behind: Behind | None) -> None:
    """Write the last tick's time, as its row has it. `behind`: what is not dealt with yet, because Slurm was not heard.
    That one was heard belongs after the pause, which a crash in between would lose for good."""
    path = _mark(config, cluster)
    ticked_at = cluster.ticked_at.timestamp() if cluster.ticked_at is not None else 0.0
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    mark = {
        "ticked_at": ticked_at,
        "behind": behind is not None,
        "heard": sorted(behind.heard) if behind else [],
        **({"since": behind.since} if behind else {}),
    }
    draft.write_text(json.dumps(mark))
    draft.replace(path)


def _pause(cluster: Cluster, jobs: Collection[UnknownJob]) -> PauseCluster | None:
    """Return that the cluster starts nothing and cancels nothing unknown until somebody resumes it."""
    if cluster.paused or not jobs:
        return None
    reason = (
        "The database is older than this installation's last tick: it was restored. "
        f"Slurm ({cluster.name}) has {len(jobs)} job{'s' if len(jobs) > 1 else ''} of ours that it does not know; "
        "nothing is started or cancelled there until somebody has adopted or rejected them and resumed the fleet."
    )
    inputs: Inputs = {"jobs": ", ".join(str(found.job.info.job_id) for found in jobs)}
    return PauseCluster(cluster=cluster.name, reason=reason, inputs=inputs)


def _mark(config: Config, cluster: Cluster) -> Path:
    return config.state_dir / f"ticked.{cluster.name}"
