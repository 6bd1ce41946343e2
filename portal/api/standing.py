"""A cluster's row → what to tell an operator of it, in words. Pure, so that pages and API say the same."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from portal.fleet.models import Cluster
from portal.fleet.slurm_words import meaning
from portal.fleet.times import ago

TICK_LATE_S = 30.0
JUST_NOW_S = (
    20.0  # longer than two passes are apart: while all is well the words stay, and pages send nothing
)


@dataclass(frozen=True, slots=True)
class Standing:
    slurm_answers: bool
    slurm: str
    loop_runs: bool
    loop: str


@dataclass(frozen=True, slots=True)
class UnknownJob:
    """A job that carries our instance's name and that no row knows."""

    job_id: int
    name: str
    slurm: str  # its state, in words
    partition: str
    nodes: str
    since: datetime  # the first listing without an owner


def standing(cluster: Cluster, now: datetime) -> Standing:
    loop_runs = cluster.ticked_at is not None and (now - cluster.ticked_at).total_seconds() < TICK_LATE_S
    if cluster.ticked_at is None:
        loop = "The control loop has not completed a tick yet. Are the Celery worker and beat running?"
    elif loop_runs:
        loop = f"The control loop's last tick was {_ago(cluster.ticked_at, now)}."
    else:
        loop = (
            f"The control loop's last tick was {ago(cluster.ticked_at, now)}: nothing is launched or let go. "
            "Look at the Celery worker and beat."
        )
    return Standing(_answers(cluster), _slurm(cluster, now), loop_runs, loop)


def _answers(cluster: Cluster) -> bool:
    return cluster.answered_at is not None and not cluster.error


def _slurm(cluster: Cluster, now: datetime) -> str:
    if cluster.tried_at is None:
        return "Slurm has not been asked yet."
    if cluster.answered_at is None:
        return f"Slurm has never answered. Nothing is launched and nothing is ended until it does. {cluster.error}"
    if cluster.error:
        since = cluster.answered_at.strftime("%Y-%m-%d %H:%M:%S UTC")
        return (
            f"No answer from Slurm since {since} ({ago(cluster.answered_at, now)}). "
            f"Nothing is launched and nothing is ended until it answers. {cluster.error}"
        )
    jobs = "1 job" if len(cluster.jobs) == 1 else f"{len(cluster.jobs)} jobs"
    return f"Slurm answered {_ago(cluster.answered_at, now)}; {jobs} of ours in its last listing."


def _ago(then: datetime, now: datetime) -> str:
    return "just now" if (now - then).total_seconds() < JUST_NOW_S else ago(then, now)


def unknown_jobs(cluster: Cluster) -> list[UnknownJob]:
    """Those of the last listing, lowest id first."""
    jobs = {str(job["job_id"]): job for packed in cluster.jobs.values() for job in packed}
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
