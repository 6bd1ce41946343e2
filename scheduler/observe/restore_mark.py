"""Was the database put back to an earlier time? A mark outside of it knows.

After a restore the tables know less than Slurm does: jobs run that no row names. Cancelling them as orphans, or
launching their like a second time, would both be wrong, so the fleet starts paused and a person decides
(invariant 2). The mark is the time of the last good tick, kept in the state folder, which no dump holds.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from portal.config import Config
from portal.db.transaction import moving
from portal.fleet.models import Cluster, Decision
from scheduler.observe.listing import Listings
from scheduler.observe.unknown_jobs import UnknownJob

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Behind:
    """The tables are older than this installation's last tick. `heard`: names of the ways that have told since which jobs
    there are."""

    heard: frozenset[str] = frozenset()


def look(cluster: Cluster, config: Config) -> Behind | None:
    """Return that the tables have forgotten a tick that was there, or None. Asked before a tick writes; the mark follows
    the row, so that no crash looks like this."""
    try:
        mark = json.loads(_mark(config, cluster).read_text())
        behind, marked_at = bool(mark["behind"]), float(mark["ticked_at"])
        heard = frozenset(map(str, mark.get("heard", ())))
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return None
    if behind:
        return Behind(heard)
    lost = cluster.ticked_at is None or cluster.ticked_at.timestamp() < marked_at
    return Behind() if lost else None


def deal(
    cluster: Cluster, behind: Behind, found: Iterable[UnknownJob], listings: Listings, now: float
) -> Behind | None:
    """Pause the cluster for what ways show that are heard for the first time since. Return what is left to be heard:
    once every way was, a person has decided or nothing was missing."""
    fresh = {way for way, one in listings.items() if one.taken_now and way.name not in behind.heard}
    pause(cluster, [job for job in found if job.job.way in fresh], now)
    heard = behind.heard | {way.name for way in fresh}
    return None if listings and heard >= {way.name for way in listings} else Behind(heard)


def remember(cluster: Cluster, config: Config, behind: Behind | None) -> None:
    """The last tick's time, as its row has it. `behind`: not dealt with yet, because Slurm was not heard."""
    path = _mark(config, cluster)
    ticked_at = cluster.ticked_at.timestamp() if cluster.ticked_at is not None else 0.0
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    mark = {
        "ticked_at": ticked_at,
        "behind": behind is not None,
        "heard": sorted(behind.heard) if behind else [],
    }
    draft.write_text(json.dumps(mark))
    draft.replace(path)


def pause(cluster: Cluster, jobs: Collection[UnknownJob], now: float) -> None:
    """The cluster starts nothing and cancels nothing unknown until somebody resumes it."""
    if cluster.paused or not jobs:
        return
    reason = (
        "The database is older than this installation's last tick: it was restored. "
        f"Slurm ({cluster.name}) has {len(jobs)} job{'s' if len(jobs) > 1 else ''} of ours that it does not know; "
        "nothing is started or cancelled there until somebody has adopted or rejected them and resumed the fleet."
    )
    logger.warning("%s", reason)
    with moving():
        cluster.paused = True
        cluster.save(update_fields=["paused"])
        inputs = {"jobs": ", ".join(str(found.job.info.job_id) for found in jobs)}
        at = datetime.fromtimestamp(now, UTC)
        Decision.objects.create(at=at, kind="pause", reason=reason, inputs=inputs)


def _mark(config: Config, cluster: Cluster) -> Path:
    return config.state_dir / f"ticked.{cluster.name}"
