"""Listings → the jobs that bear our instance's name and that no live pilot owns, and those of them to be cancelled.

After a crash there are none: intents come first. There are some when somebody ended a pilot's row while Slurm
was silent, and, all of them at once, when a database was restored from a dump; then a person decides
(`scheduler.commands.unknown_jobs`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from portal.fleet.models import Pilot
from portal.fleet.states import PilotState
from scheduler.observe.listing import Listing, OurJob, stored_listing
from scheduler.observe.reports import Heard
from scheduler.observe.verdicts import is_over
from scheduler.observe.ways import Site
from scheduler.policy.consequences import CancelUnknownJob


@dataclass(frozen=True, slots=True)
class UnknownJob:
    """A live job of ours without an owner."""

    job: OurJob
    since: float  # first listing that showed it without an owner


def unknown(
    listings: Iterable[Listing], live: Iterable[str], first_seen: Mapping[str, float], now: float
) -> list[UnknownJob]:
    """Return the unknown jobs, lowest job id first. `listings` are those of one cluster, in which a number means one
    job, however many ways show it; one whose answer is new shows it best. Pure."""
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
    """Return those to cancel: unknown in listings grace_s apart, and not reporting. `reports` None: Redis did not answer,
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
    """Return the unknown jobs of a cluster's last good listings."""
    live = Pilot.objects.exclude(state=PilotState.ENDED).values_list("pk", flat=True)
    listings = [stored_listing(way, row) for way, row in site.ways.items() if way.cluster == cluster]
    return unknown(listings, map(str, live), site.clusters[cluster].orphans, now)


def surplus(job: OurJob) -> CancelUnknownJob:
    """Return the cancellation of a further job of a pilot that has one. Pure."""
    return _cancellation(job, "it is a second one of its name")


def orphan(job: OurJob) -> CancelUnknownJob:
    """Return the cancellation of a job that no pilot owns. Pure."""
    return _cancellation(job, "no pilot of ours owns it")


def _cancellation(job: OurJob, why: str) -> CancelUnknownJob:
    info = job.info
    return CancelUnknownJob(
        cluster=job.way.cluster,
        way=job.way.name,
        job_id=info.job_id,
        name=info.name,
        reason=f"Job {info.job_id} is cancelled: {why}.",
        inputs={"job": info.job_id, "name": info.name, "state": info.state, "cluster": job.way.cluster},
    )
