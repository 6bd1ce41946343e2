"""Was the database put back to an earlier time? A mark outside of it knows.

After a restore the tables know less than Slurm does: jobs run that no row names. Cancelling them as orphans, or
launching their like a second time, would both be wrong, so the fleet starts paused and a person decides
(invariant 2). The mark is the time of the last good tick, kept in the state folder, which no dump holds.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path

from portal.config import Config
from portal.fleet.models import Cluster, Decision
from scheduler.moves import moving
from scheduler.unknown import UnknownJob

logger = logging.getLogger(__name__)


def is_behind(cluster: Cluster, config: Config) -> bool:
    """Whether the tables have forgotten a tick that was there. Asked before a tick writes; the mark follows the row, so
    that no crash looks like this."""
    try:
        mark = json.loads(_mark(config, cluster).read_text())
        behind, marked_at = bool(mark["behind"]), float(mark["ticked_at"])
    except (FileNotFoundError, ValueError, KeyError, TypeError):
        return False
    return behind or cluster.ticked_at is None or cluster.ticked_at.timestamp() < marked_at


def remember(cluster: Cluster, config: Config, *, behind: bool) -> None:
    """The last tick's time, as its row has it. `behind`: not dealt with yet, because Slurm was not heard."""
    path = _mark(config, cluster)
    ticked_at = cluster.ticked_at.timestamp() if cluster.ticked_at is not None else 0.0
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    draft.write_text(json.dumps({"ticked_at": ticked_at, "behind": behind}))
    draft.replace(path)


def pause(cluster: Cluster, jobs: Collection[UnknownJob], now: float) -> None:
    """The fleet starts nothing and cancels nothing unknown until somebody resumes it."""
    if cluster.paused or not jobs:
        return
    reason = (
        "The database is older than this installation's last tick: it was restored. "
        f"Slurm has {len(jobs)} job{'s' if len(jobs) > 1 else ''} of ours that it does not know; nothing is started "
        "or cancelled until somebody has adopted or rejected them and resumed the fleet."
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
