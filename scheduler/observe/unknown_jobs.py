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
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Decision, Pilot
from portal.fleet.states import PilotState
from scheduler.act import refusals
from scheduler.act.job_spec import job_name
from scheduler.observe.listing import ClientFor, Listing, OurJob, kept
from scheduler.observe.reports import Heard
from scheduler.observe.verdicts import is_over
from scheduler.observe.ways import Site
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


class Impossible(Exception):
    """An unknown job cannot be adopted or rejected. The text says why and goes to whoever asked."""


@dataclass(frozen=True, slots=True)
class UnknownJob:
    job: OurJob
    since: float  # first listing that showed it without an owner


def unknown(
    listings: Iterable[Listing], live: Iterable[str], first_seen: Mapping[str, float], now: float
) -> list[UnknownJob]:
    """Lowest job id first; `listings` of one cluster, in which a number means one job, however many ways show it; one
    whose answer is new shows it best. Pure."""
    owned = set(live)
    jobs = {
        job.info.job_id: job
        for listing in sorted(listings, key=lambda listing: listing.taken_now)
        for pilot, jobs in listing.jobs.items()
        if pilot not in owned
        for job in jobs
    }
    return [
        UnknownJob(job, float(first_seen.get(str(job_id), now)))
        for job_id, job in sorted(jobs.items())
        if not is_over(job)
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


def of(site: Site, cluster: str, now: float) -> list[UnknownJob]:
    """Those of the last good listings."""
    live = Pilot.objects.exclude(state=PilotState.ENDED).values_list("pk", flat=True)
    listings = [kept(way, row) for way, row in site.ways.items() if way.cluster == cluster]
    return unknown(listings, map(str, live), site.clusters[cluster].orphans, now)


def adopt(
    site: Site, cluster: str, config: Config, job_id: int, profile_name: str, who: str, now: float
) -> str:
    """Makes a pilot of an unknown job; what was done, in words. Its agent, if it runs, registers again and brings its
    address with it; the models that it had are not known and stop. `profile_name` may be empty where the job's
    partition tells. Raises Impossible."""
    job = _find(site, cluster, job_id, now).job
    try:
        pilot_id = UUID(job.pilot)
    except ValueError:
        raise Impossible(f"The name of job {job_id} holds no pilot's id.") from None
    if Pilot.objects.filter(pk=pilot_id).exists():
        raise Impossible(f"The pilot of job {job_id} has ended here: cancel the job instead.")
    live = Pilot.objects.exclude(state=PilotState.ENDED)
    if live.filter(cluster=cluster, job_id=job_id).exists():
        raise Impossible(
            f"Slurm gave the number {job_id} twice: try again once the pilot that had it before has ended."
        )
    profile = _profile(site, job, profile_name)
    nodes = _nodes(job, profile)
    pilot = fleet.NewPilot(
        id=pilot_id,
        cluster=cluster,
        profile_id=profile.pk,
        job_name=job_name(config, job.pilot),
        gpus=profile.gpus * nodes,
        mem_mb=profile.mem_mb,
        walltime_min=profile.walltime_min,
        gpu_type=profile.gpu_type,
        nodes=nodes,
    )
    reason = f"{who} took job {job_id}, which nothing here knew, for a pilot of {profile.name}."
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        fleet.plan(cur, pilot, at)
        fleet.submitted(cur, pilot_id, job_id, at)
        _record("adopt", reason, job, pilot_id, at)
    return reason


def reject(site: Site, cluster: str, client_for: ClientFor, job_id: int, who: str, now: float) -> str:
    """Cancels an unknown job. Raises Impossible, also where Slurm refuses it, NoAnswer, NotOffered."""
    job = _find(site, cluster, job_id, now).job
    try:
        client_for(job.way).cancel([job_id])
    except Rejected as error:
        raise Impossible(refusals.note(cluster, job_id, job.info.name, error, now)) from None
    reason = f"{who} cancelled job {job_id}, which nothing here knew."
    _record("reject", reason, job, None, datetime.fromtimestamp(now, UTC))
    return reason


def cancel(jobs: Iterable[OurJob], client_for: ClientFor, why: str, now: float) -> None:
    """Jobs of ours that are one too many. What Slurm does not hear now, it hears after the next listing; what it refuses,
    in an hour."""
    for job in jobs:
        which = (job.way.cluster, job.info.job_id, job.info.name)
        if refusals.is_held(*which, now):
            continue
        reason = f"Job {job.info.job_id} is cancelled: {why}."
        logger.warning("%s", reason)
        try:
            client_for(job.way).cancel([job.info.job_id])
        except (NoAnswer, NotOffered) as error:
            logger.warning("scancel %d: %s", job.info.job_id, error)
            continue
        except Rejected as error:
            refusals.note(*which, error, now)
            continue
        _record("cancel_unknown", reason, job, None, datetime.fromtimestamp(now, UTC))


def _find(site: Site, cluster: str, job_id: int, now: float) -> UnknownJob:
    if cluster not in site.clusters:
        raise Impossible(f"There is no cluster {cluster!r}. There are: {', '.join(site.clusters)}.")
    for found in of(site, cluster, now):
        if found.job.info.job_id == job_id:
            return found
    which = f" of {cluster}" if len(site.clusters) > 1 else ""
    raise Impossible(f"Slurm's last listing{which} shows no unknown job {job_id} of ours.")


def _profile(site: Site, job: OurJob, name: str) -> Profile:
    """One by whose way the job was seen: by another one it might not be found again."""
    fitting = Profile.objects.filter(cluster=job.way.cluster).select_related("access")
    if name:
        found = fitting.filter(name=name).first()
        if found is None:
            raise Impossible(f"There is no profile {name!r} in cluster {job.way.cluster}.")
        if not _sees(site, site.way_of(found), job):
            raise Impossible(
                f"{site.way_of(found).said}, by which profile {name} submits, does not list job {job.info.job_id}."
            )
        return found
    candidates = [
        profile
        for profile in fitting.filter(partition=job.info.partition)
        if _sees(site, site.way_of(profile), job)
    ]
    if len(candidates) != 1:
        raise Impossible(
            f"{'Several profiles use' if candidates else 'No profile uses'} partition {job.info.partition}: "
            "name the one that the job was submitted under."
        )
    return candidates[0]


def _nodes(job: OurJob, profile: Profile) -> int:
    """That it has, or asked for. What would be placed on a wrong number of them could not start."""
    said = job.info.node_count
    if said is None and profile.nodes == 1:
        return 1
    if said is None:
        raise Impossible(
            f"Slurm's listing does not say how many nodes job {job.info.job_id} has, and jobs of {profile.name} have "
            f"up to {profile.nodes}: try again after the next listing, or reject it."
        )
    if said > profile.nodes:
        raise Impossible(
            f"Job {job.info.job_id} has {said} nodes, and jobs of {profile.name} have {profile.nodes} at most: name the "
            "profile that it was submitted under, or reject it."
        )
    return said


def _sees(site: Site, way: Way, job: OurJob) -> bool:
    """The last listing by this way had the job; one that was never used sees what others of its kind and account see."""
    row = site.ways.get(way)
    if row is None or row.answered_at is None:
        return (way.kind, way.prefix, way.user) == (job.way.kind, job.way.prefix, job.way.user)
    return any(info["job_id"] == job.info.job_id for info in row.jobs.get(job.pilot, ()))


def _record(kind: str, reason: str, job: OurJob, pilot: UUID | None, at: datetime) -> None:
    info = job.info
    inputs = {"job": info.job_id, "name": info.name, "state": info.state, "cluster": job.way.cluster}
    Decision.objects.create(at=at, kind=kind, pilot=pilot, reason=reason, inputs=inputs)
