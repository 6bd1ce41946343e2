"""The rows of a cluster and of the ways to it → what to tell an operator, so that pages and API say the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from portal.fleet.models import Cluster, WayState
from portal.fleet.slurm_words import meaning
from portal.fleet.times import ago

TICK_LATE_S = 30.0
JUST_NOW_S = (
    20.0  # longer than two passes are apart: while all is well the words stay, and pages send nothing
)


@dataclass(frozen=True, slots=True)
class WayHealth:
    """One way to the cluster's Slurm."""

    name: str  # of its access; "" = Slurm's commands on the portal's host
    answers: bool
    text: str
    tried_at: datetime | None
    answered_at: datetime | None


@dataclass(frozen=True, slots=True)
class ClusterHealth:
    slurm_answers: bool  # by every way
    slurm: str
    loop_runs: bool
    loop: str
    ways: tuple[WayHealth, ...]


@dataclass(frozen=True, slots=True)
class UnknownJob:
    """A job that carries our instance's name and that no row knows."""

    job_id: int
    name: str
    slurm: str  # its state, in words
    partition: str
    nodes: str
    since: datetime  # the first listing without an owner


def cluster_health(cluster: Cluster, now: datetime) -> ClusterHealth:
    loop_runs = cluster.ticked_at is not None and (now - cluster.ticked_at).total_seconds() < TICK_LATE_S
    if cluster.ticked_at is None:
        loop = "The control loop has not completed a tick yet. Are the Celery worker and beat running?"
    elif loop_runs:
        loop = f"The control loop's last tick was {_ago(cluster.ticked_at, now)}."
    else:
        loop = (
            f"The control loop's last tick was {ago(cluster.ticked_at, now)}: no job is launched or ended. "
            "Check the Celery worker and beat."
        )
    ways = _ways(cluster, now)
    text = (
        " ".join(way.text for way in ways)
        or "Slurm has not been queried yet: no enabled profile uses this cluster."
    )
    return ClusterHealth(bool(ways) and all(way.answers for way in ways), text, loop_runs, loop, ways)


def _ways(cluster: Cluster, now: datetime) -> tuple[WayHealth, ...]:
    rows = sorted(cluster.ways.all(), key=lambda row: row.name)
    return tuple(
        WayHealth(
            row.name,
            row.answered_at is not None and not row.error,
            way_words(row, now, alone=len(rows) == 1),
            row.tried_at,
            row.answered_at,
        )
        for row in rows
    )


def way_words(way: WayState, now: datetime, *, alone: bool = True) -> str:
    """Return whether Slurm answers by this way, and if not, since when and what was heard. `alone`: there is no other
    way to its cluster."""
    who = "Slurm" if alone else way.said
    held = "" if alone else " through this access"
    if way.tried_at is None:
        return f"{who} has not been queried yet."
    if way.answered_at is None:
        return f"{who} has never answered. Nothing is launched and nothing is ended{held} until it does. {way.error}"
    if way.error:
        since = way.answered_at.strftime("%Y-%m-%d %H:%M:%S UTC")
        return (
            f"No answer from {who} since {since} ({ago(way.answered_at, now)}). "
            f"Nothing is launched and nothing is ended{held} until it answers. {way.error}"
        )
    jobs = "1 job" if len(way.jobs) == 1 else f"{len(way.jobs)} jobs"
    return f"{who} answered {_ago(way.answered_at, now)}; {jobs} of Berth in its last listing."


def _ago(then: datetime, now: datetime) -> str:
    return "just now" if (now - then).total_seconds() < JUST_NOW_S else ago(then, now)


def unknown_jobs(cluster: Cluster) -> list[UnknownJob]:
    """List the unknown jobs of a cluster's last listings, lowest id first."""
    jobs = {
        str(job["job_id"]): job
        for way in cluster.ways.all()
        for packed in way.jobs.values()
        for job in packed
    }
    return [
        UnknownJob(
            job_id=int(job_id),
            name=job["name"],
            slurm=f"{job['state']}: {meaning(job['state'], job['reason']).text}",
            partition=job["partition"],
            nodes=job["nodes"],
            since=datetime.fromtimestamp(float(since), UTC),
        )
        for job_id, since in sorted(cluster.orphans.items(), key=lambda item: int(item[0]))
        if (job := jobs.get(job_id)) is not None
    ]
