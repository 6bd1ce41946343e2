"""Everything that was seen in this tick, written down: the listing, the reports, and the moves of pilots
that follow from them.

Only what was heard changes anything. What the fleet looks like afterwards is `scheduler.view`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import redis as redis_library
from django.db.models import QuerySet

from portal.config import Config
from portal.fleet import transitions as fleet
from portal.fleet.models import Cluster, Pilot, PilotState
from portal.ledger import transitions as ledger
from scheduler import endings
from scheduler.hearing import Heard, hear
from scheduler.listing import ClientFor, Listing, OurJob, listen
from scheduler.moves import moving
from scheduler.pilots import Patience, PilotFacts, Verdict, is_over, judge
from scheduler.policy.snapshot import ON_ITS_WAY
from scheduler.slurm.protocol import NoAnswer

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Observed:
    listing: Listing
    heard: dict[str, Heard]
    redis_answers: bool
    resubmit: tuple[UUID, ...]  # intents that Slurm has never seen


def observe(
    cluster: Cluster, redis: redis_library.Redis, client_for: ClientFor, config: Config, now: float
) -> Observed:
    listing = listen(cluster, config, client_for, now)
    pilots = list(live_pilots(cluster.name))
    reports = hear(redis, [str(pilot.pk) for pilot in pilots])
    heard = reports or {}
    patience = Patience(config.alive_s, 3 * config.sync_interval_s)
    verdicts = {
        pilot.pk: judge(
            _facts(pilot),
            listing.jobs.get(str(pilot.pk), ()),
            heard.get(str(pilot.pk)),
            reports is not None,
            listing.answered_at,
            patience,
            now,
        )
        for pilot in pilots
    }
    _adopt(verdicts, now)
    _write_facts(verdicts, listing, now)
    _register(pilots, now)
    ended = _end(verdicts, now)
    endings.clean_up(ended, client_for, config, now)
    if listing.taken_now:
        surplus = [job for verdict in verdicts.values() for job in verdict.surplus]
        _cancel(surplus, client_for, "a second job of one name")
        live = {str(pilot.pk) for pilot in pilots} - {str(pilot) for pilot in ended}
        _orphans(cluster, listing, live, redis, client_for, config, now)
    _ledger_sweeps(config, now)
    resubmit = tuple(pilot for pilot, verdict in verdicts.items() if verdict.resubmit)
    return Observed(listing, heard, reports is not None, resubmit)


def live_pilots(cluster: str) -> QuerySet[Pilot]:
    return Pilot.objects.filter(cluster=cluster).exclude(state=PilotState.ENDED).select_related("profile")


def _facts(pilot: Pilot) -> PilotFacts:
    return PilotFacts(
        id=str(pilot.pk),
        state=pilot.state,
        planned_at=pilot.planned_at.timestamp(),
        submitted_at=_seconds(pilot.submitted_at),
        job_id=pilot.job_id,
        agent_job_id=pilot.agent_job_id,
        slurm_seen_at=_seconds(pilot.slurm_seen_at),
        said_ending=pilot.said_ending,
    )


def _adopt(verdicts: dict[UUID, Verdict], now: float) -> None:
    for pilot, verdict in verdicts.items():
        if verdict.adopt is not None:
            with moving() as cur:
                if fleet.submitted(cur, pilot, verdict.adopt, datetime.fromtimestamp(now, UTC)):
                    logger.info("pilot %s: adopted job %d by its name", pilot, verdict.adopt)


def _write_facts(verdicts: dict[UUID, Verdict], listing: Listing, now: float) -> None:
    """Only when the listing is new: an old one must not look like a new sighting."""
    if not listing.taken_now:
        return
    facts = [
        fleet.SlurmFact(
            pilot=pilot,
            state=verdict.job.info.state,
            reason=verdict.job.info.reason,
            start_at=_moment(verdict.job.info.started_at),
            end_at=_moment(verdict.job.info.ends_at),
            node=verdict.job.info.nodes,
        )
        for pilot, verdict in verdicts.items()
        if verdict.job is not None
    ]
    with moving() as cur:
        fleet.slurm_said(cur, facts, datetime.fromtimestamp(now, UTC))


def _register(pilots: Iterable[Pilot], now: float) -> None:
    registered = [
        pilot.pk for pilot in pilots if pilot.registered_at is not None and pilot.state in ON_ITS_WAY
    ]
    if registered:
        with moving() as cur:
            fleet.up(cur, registered, datetime.fromtimestamp(now, UTC))


def _end(verdicts: dict[UUID, Verdict], now: float) -> list[UUID]:
    ended = []
    for pilot, verdict in verdicts.items():
        if verdict.ended:
            ended += endings.end([pilot], verdict.ended, now, failed=verdict.failed)
    return ended


def _orphans(
    cluster: Cluster,
    listing: Listing,
    live: set[str],
    redis: redis_library.Redis,
    client_for: ClientFor,
    config: Config,
    now: float,
) -> None:
    """Jobs of our name that no live pilot owns. Cancelled when they do not report and two listings at least
    orphan_grace_s apart agree; never while the fleet is paused, as after a restored database all are orphans."""
    lost = {
        str(job.info.job_id): job
        for pilot, jobs in listing.jobs.items()
        if pilot not in live
        for job in jobs
        if not is_over(job)
    }
    since = {job_id: float(cluster.orphans.get(job_id, now)) for job_id in lost}
    due = [lost[job_id] for job_id, first in since.items() if now - first >= config.orphan_grace_s]
    if due and not cluster.paused:
        reports = hear(redis, [job.pilot for job in due])
        if reports is not None:
            silent = [job for job in due if not _reports(job, reports, config.alive_s, now)]
            _cancel(silent, client_for, "no pilot of ours owns it")
    if since != cluster.orphans:
        cluster.orphans = since
        cluster.save(update_fields=["orphans"])


def _reports(job: OurJob, reports: dict[str, Heard], alive_s: float, now: float) -> bool:
    heard = reports.get(job.pilot)
    return heard is not None and heard.job_id == job.info.job_id and now - heard.received_at <= alive_s


def _cancel(jobs: Iterable[OurJob], client_for: ClientFor, why: str) -> None:
    for job in jobs:
        logger.warning("job %d of pilot %s is cancelled: %s", job.info.job_id, job.pilot, why)
        try:
            client_for(job.prefix).cancel([job.info.job_id])
        except NoAnswer as error:
            logger.warning("scancel %d: %s", job.info.job_id, error)


def _ledger_sweeps(config: Config, now: float) -> None:
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        moved = ledger.detach(cur, datetime.fromtimestamp(now - config.holder_stale_s, UTC), at)
    if moved:
        logger.warning("%d requests of gateways that went away are async now", len(moved))
    endings.release_rows(now)


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment is not None else None


def _moment(seconds: float | None) -> datetime | None:
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
