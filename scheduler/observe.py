"""Everything that was seen in this tick, written down: the listing, the reports, and the moves of pilots
that follow from them.

Only what was heard changes anything. What the fleet looks like afterwards is `scheduler.view`.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import redis as redis_library
from django.db.models import QuerySet

from portal.config import Config
from portal.fleet import transitions as fleet
from portal.fleet.models import Cluster, Pilot, PilotState
from portal.fleet.slurm_words import meaning
from portal.ledger import transitions as ledger
from scheduler import badnodes, endings, restored, silence, unknown
from scheduler.forced import Limits, LiveJob, forced
from scheduler.hearing import Heard, hear
from scheduler.listing import ClientFor, Listing, listen
from scheduler.moments import moment, seconds
from scheduler.moves import moving
from scheduler.pilots import BLAMELESS, Patience, PilotFacts, Verdict, judge
from scheduler.policy.decisions import CancelPilot, DrainPilot
from scheduler.policy.snapshot import ON_ITS_WAY
from scheduler.silence import Silence
from scheduler.story import tell

logger = logging.getLogger(__name__)

# How the job of a pilot ends that was told to go.
_AS_ASKED = frozenset({"COMPLETED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Observed:
    listing: Listing
    heard: dict[str, Heard]
    redis_answers: bool
    resubmit: tuple[UUID, ...]  # intents that Slurm has never seen
    lost: frozenset[str]  # pilots that are up and have been silent for alive_s, though others were heard
    forced: tuple[DrainPilot | CancelPilot, ...]  # to be carried out before anything else is decided


def observe(
    cluster: Cluster, redis: redis_library.Redis, client_for: ClientFor, config: Config, now: float
) -> Observed:
    behind = restored.is_behind(cluster, config)
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
    forgotten = _adopt(cluster.name, verdicts, now)
    _write_facts(verdicts, listing, now)
    _register(pilots, now)
    ended = forgotten + _end(pilots, verdicts, client_for, now)
    endings.clean_up(ended, client_for, config, now)
    silent = silence.look(redis, pilots, _running(verdicts), reports, config, now)
    if listing.taken_now:
        surplus = [job for verdict in verdicts.values() for job in verdict.surplus]
        unknown.cancel(surplus, client_for, "it is a second one of its name", now)
        live = {str(pilot.pk) for pilot in pilots} - {str(pilot) for pilot in ended}
        _unknown_jobs(cluster, listing, live, redis, client_for, config, behind, now)
    restored.remember(cluster, config, behind=behind and not listing.taken_now)
    badnodes.look(cluster.name, config, now)
    _ledger_sweeps(config, now)
    return Observed(
        listing=listing,
        heard=heard,
        redis_answers=reports is not None,
        resubmit=tuple(pilot for pilot, verdict in verdicts.items() if verdict.resubmit),
        lost=silent.lost(config.alive_s),
        forced=tuple(_forced(pilots, verdicts, silent, config, now)) if listing.taken_now else (),
    )


def live_pilots(cluster: str) -> QuerySet[Pilot]:
    # Not select_related, which builds a profile per pilot.
    return Pilot.objects.filter(cluster=cluster).exclude(state=PilotState.ENDED).prefetch_related("profile")


def _facts(pilot: Pilot) -> PilotFacts:
    return PilotFacts(
        id=str(pilot.pk),
        state=pilot.state,
        planned_at=pilot.planned_at.timestamp(),
        submitted_at=seconds(pilot.submitted_at),
        job_id=pilot.job_id,
        agent_job_id=pilot.agent_job_id,
        slurm_seen_at=seconds(pilot.slurm_seen_at),
        said_ending=pilot.said_ending,
    )


def _adopt(cluster: str, verdicts: dict[UUID, Verdict], now: float) -> list[UUID]:
    """Answers the pilots that ended for it."""
    forgotten = []
    for pilot, verdict in verdicts.items():
        if verdict.adopt is not None:
            forgotten += endings.make_room(cluster, verdict.adopt, pilot, now)
            with moving() as cur:
                if fleet.submitted(cur, pilot, verdict.adopt, datetime.fromtimestamp(now, UTC)):
                    said = f"Job {verdict.adopt} bears its name: sbatch did not say so, but this is what it asked for."
                    tell("adopt", said, now, pilot=pilot, inputs={"job": verdict.adopt})
    return forgotten


def _write_facts(verdicts: dict[UUID, Verdict], listing: Listing, now: float) -> None:
    """Only when the listing is new: an old one must not look like a new sighting."""
    if not listing.taken_now:
        return
    facts = [
        fleet.SlurmFact(
            pilot=pilot,
            state=verdict.job.info.state,
            reason=verdict.job.info.reason,
            start_at=moment(verdict.job.info.started_at),
            end_at=moment(verdict.job.info.ends_at),
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


def _end(
    pilots: Iterable[Pilot], verdicts: dict[UUID, Verdict], client_for: ClientFor, now: float
) -> list[UUID]:
    rows = {pilot.pk: pilot for pilot in pilots}
    vanished = endings.accounted((p for p in rows.values() if verdicts[p.pk].vanished), client_for)
    ended = []
    for pilot, verdict in verdicts.items():
        if verdict.ended:
            reason, failed = verdict.ended, verdict.failed
            if (usage := vanished.get(pilot)) is not None:
                said = meaning(usage.state, "None")
                if said.phase == "ended":
                    reason = f"Job {usage.job_id} is gone; accounting says: {said.text}."
                    failed = usage.state not in BLAMELESS
            unasked = not _asked(rows[pilot], verdict)
            ended += endings.end([pilot], reason, now, failed=failed, unasked=unasked)
    return ended


def _asked(pilot: Pilot, verdict: Verdict) -> bool:
    """A decision of ours let it go, and nothing else came between."""
    if pilot.state != PilotState.DRAINING:
        return False
    return bool(pilot.said_ending) or verdict.job is None or verdict.job.info.state in _AS_ASKED


def _running(verdicts: dict[UUID, Verdict]) -> list[str]:
    jobs = {pilot: verdict.job for pilot, verdict in verdicts.items() if verdict.job is not None}
    return [str(pilot) for pilot, job in jobs.items() if job.info.state == "RUNNING"]


def _forced(
    pilots: Iterable[Pilot], verdicts: dict[UUID, Verdict], silent: Silence, config: Config, now: float
) -> Iterator[DrainPilot | CancelPilot]:
    limits = Limits(config.register_s, config.silent_cancel_s)
    for pilot in pilots:
        verdict = verdicts[pilot.pk]
        if verdict.job is None or verdict.ended:
            continue
        live = LiveJob(
            pilot=str(pilot.pk),
            state=pilot.state,
            registered=pilot.registered_at is not None,
            ends_at=seconds(pilot.slurm_end_at),
            job=verdict.job.info,
            silent_s=silent.of(str(pilot.pk)),
        )
        decision = forced(live, limits, now)
        if decision is not None:
            yield decision


def _unknown_jobs(
    cluster: Cluster,
    listing: Listing,
    live: set[str],
    redis: redis_library.Redis,
    client_for: ClientFor,
    config: Config,
    behind: bool,
    now: float,
) -> None:
    """Cancelled once they are overdue; never while the fleet is paused, as it is after a restored database."""
    found = unknown.unknown(listing, live, cluster.orphans, now)
    if behind:
        restored.pause(cluster, found, now)
    if found and not cluster.paused:
        reports = hear(redis, [job.job.pilot for job in found])
        due = unknown.overdue(found, reports, config.orphan_grace_s, config.alive_s, now)
        unknown.cancel([job.job for job in due], client_for, "no pilot of ours owns it", now)
    since = {str(job.job.info.job_id): job.since for job in found}
    if since != cluster.orphans:
        cluster.orphans = since
        cluster.save(update_fields=["orphans"])


def _ledger_sweeps(config: Config, now: float) -> None:
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        moved = ledger.detach(cur, datetime.fromtimestamp(now - config.holder_stale_s, UTC), at)
    if moved:
        logger.warning("%d requests of gateways that went away are async now", len(moved))
    endings.release_rows(now)
