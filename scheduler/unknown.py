"""Jobs that bear our instance's name and that no live pilot owns → cancelled, or shown to a person who decides.

After a crash there are none: intents come first. There are some when somebody ended a pilot's row while Slurm
was silent, and, all of them at once, when a database was restored from a dump. `adopt` and `reject` are what a
person may command then.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet import transitions as fleet
from portal.fleet.models import Cluster, Decision, Pilot, PilotState
from scheduler.hearing import Heard
from scheduler.jobspec import job_name
from scheduler.listing import ClientFor, Listing, OurJob, kept
from scheduler.moves import moving
from scheduler.pilots import is_over
from scheduler.slurm.protocol import NoAnswer

logger = logging.getLogger(__name__)


class Impossible(Exception):
    """An unknown job cannot be adopted or rejected. The text says why and goes to whoever asked."""


@dataclass(frozen=True, slots=True)
class UnknownJob:
    job: OurJob
    since: float  # first listing that showed it without an owner


def unknown(
    listing: Listing, live: Iterable[str], first_seen: Mapping[str, float], now: float
) -> list[UnknownJob]:
    """Lowest job id first. Pure."""
    owned = set(live)
    jobs = [
        job for pilot, jobs in listing.jobs.items() if pilot not in owned for job in jobs if not is_over(job)
    ]
    return [
        UnknownJob(job, float(first_seen.get(str(job.info.job_id), now)))
        for job in sorted(jobs, key=lambda job: job.info.job_id)
    ]


def overdue(
    jobs: Iterable[UnknownJob],
    reports: Mapping[str, Heard] | None,
    grace_s: float,
    alive_s: float,
    now: float,
) -> list[UnknownJob]:
    """Those to cancel: unknown in listings grace_s apart, and not reporting. `reports` None: Redis did not answer,
    which proves nothing. Pure."""
    if reports is None:
        return []
    return [
        found
        for found in jobs
        if now - found.since >= grace_s
        and not _reports(found.job, reports.get(found.job.pilot), alive_s, now)
    ]


def _reports(job: OurJob, heard: Heard | None, alive_s: float, now: float) -> bool:
    return heard is not None and heard.job_id == job.info.job_id and now - heard.received_at <= alive_s


def of(cluster: Cluster, now: float) -> list[UnknownJob]:
    """Those of the last good listing."""
    live = (
        Pilot.objects.filter(cluster=cluster.name)
        .exclude(state=PilotState.ENDED)
        .values_list("pk", flat=True)
    )
    return unknown(kept(cluster), map(str, live), cluster.orphans, now)


def adopt(cluster: Cluster, config: Config, job_id: int, profile_name: str, who: str, now: float) -> str:
    """Makes a pilot of an unknown job; what was done, in words. Its agent, if it runs, registers again and brings its
    address with it; the models that it had are not known and stop. `profile_name` may be empty where the job's
    partition tells. Raises Impossible."""
    job = _find(cluster, job_id, now).job
    try:
        pilot_id = UUID(job.pilot)
    except ValueError:
        raise Impossible(f"The name of job {job_id} holds no pilot's id.") from None
    if Pilot.objects.filter(pk=pilot_id).exists():
        raise Impossible(f"The pilot of job {job_id} has ended here: cancel the job instead.")
    live = Pilot.objects.exclude(state=PilotState.ENDED)
    if live.filter(cluster=cluster.name, job_id=job_id).exists():
        raise Impossible(
            f"Slurm gave the number {job_id} twice: try again once the pilot that had it before has ended."
        )
    profile = _profile(cluster, job, profile_name)
    pilot = fleet.NewPilot(
        id=pilot_id,
        cluster=cluster.name,
        profile_id=profile.pk,
        job_name=job_name(config, job.pilot),
        gpus=profile.gpus,
        mem_mb=profile.mem_mb,
        walltime_min=profile.walltime_min,
        gpu_type=profile.gpu_type,
    )
    reason = f"{who} took job {job_id}, which nothing here knew, for a pilot of {profile.name}."
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        fleet.plan(cur, pilot, at)
        fleet.submitted(cur, pilot_id, job_id, at)
        _record("adopt", reason, job, pilot_id, at)
    return reason


def reject(cluster: Cluster, client_for: ClientFor, job_id: int, who: str, now: float) -> str:
    """Cancels an unknown job. Raises Impossible, NoAnswer."""
    job = _find(cluster, job_id, now).job
    client_for(job.prefix).cancel([job_id])
    reason = f"{who} cancelled job {job_id}, which nothing here knew."
    _record("reject", reason, job, None, datetime.fromtimestamp(now, UTC))
    return reason


def cancel(jobs: Iterable[OurJob], client_for: ClientFor, why: str, now: float) -> None:
    """Jobs of ours that are one too many. What Slurm does not hear now, it hears after the next listing."""
    for job in jobs:
        reason = f"Job {job.info.job_id} is cancelled: {why}."
        logger.warning("%s", reason)
        try:
            client_for(job.prefix).cancel([job.info.job_id])
        except NoAnswer as error:
            logger.warning("scancel %d: %s", job.info.job_id, error)
            continue
        _record("cancel_unknown", reason, job, None, datetime.fromtimestamp(now, UTC))


def _find(cluster: Cluster, job_id: int, now: float) -> UnknownJob:
    for found in of(cluster, now):
        if found.job.info.job_id == job_id:
            return found
    raise Impossible(f"Slurm's last listing shows no unknown job {job_id} of ours.")


def _profile(cluster: Cluster, job: OurJob, name: str) -> Profile:
    fitting = Profile.objects.filter(cluster=cluster.name)
    if name:
        found = fitting.filter(name=name).first()
        if found is None:
            raise Impossible(f"There is no profile {name!r} on this cluster.")
        return found
    candidates = list(fitting.filter(partition=job.info.partition)[:2])
    if len(candidates) != 1:
        raise Impossible(
            f"{'Several profiles use' if candidates else 'No profile uses'} partition {job.info.partition}: "
            "name the one that the job was submitted under."
        )
    return candidates[0]


def _record(kind: str, reason: str, job: OurJob, pilot: UUID | None, at: datetime) -> None:
    inputs = {"job": job.info.job_id, "name": job.info.name, "state": job.info.state}
    Decision.objects.create(at=at, kind=kind, pilot=pilot, reason=reason, inputs=inputs)
