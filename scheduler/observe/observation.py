"""Everything that was seen in this tick, written down: the listing, the reports, and the moves of pilots
that follow from them.

Only what was heard changes anything. What the fleet looks like afterwards is `scheduler.observe.snapshot`.
"""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import redis as redis_library
from django.db.models import QuerySet

from portal.config import Config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot
from portal.fleet.slurm_words import meaning
from portal.fleet.states import ON_ITS_WAY, PilotState
from portal.ledger import transitions as ledger
from scheduler.act import endings
from scheduler.act.decision_rows import tell
from scheduler.act.job_spec import portal_url_of
from scheduler.moments import moment, seconds
from scheduler.observe import bad_nodes, restore_mark, silence, unknown_jobs
from scheduler.observe.forced import Limits, LiveJob, forced
from scheduler.observe.listing import NEVER, ClientFor, Listing, Listings, of_cluster
from scheduler.observe.reports import Heard, hear
from scheduler.observe.restore_mark import Behind
from scheduler.observe.silence import Silence
from scheduler.observe.verdicts import BLAMELESS, Patience, PilotFacts, Verdict, judge
from scheduler.observe.ways import Site
from scheduler.policy.decisions import CancelPilot, DrainPilot

logger = logging.getLogger(__name__)

# How the job of a pilot ends that was told to go.
_AS_ASKED = frozenset({"COMPLETED", "CANCELLED"})


@dataclass(frozen=True, slots=True)
class Observed:
    heard: dict[str, Heard]
    redis_answers: bool
    resubmit: tuple[UUID, ...]  # intents that Slurm has never seen
    lost: frozenset[str]  # pilots that are up and have been silent for alive_s, though others were heard
    forced: tuple[DrainPilot | CancelPilot, ...]  # to be carried out before anything else is decided


def observe(
    site: Site,
    redis: redis_library.Redis,
    listings: Listings,
    client_for: ClientFor,
    config: Config,
    now: float,
) -> Observed:
    behind = {name: restore_mark.look(cluster, config) for name, cluster in site.clusters.items()}
    pilots = list(live_pilots())
    reports = hear(redis, [str(pilot.pk) for pilot in pilots])
    heard = reports or {}
    patience = Patience(config.alive_s, 3 * config.sync_interval_s)
    # Each pilot is judged by what its own way said: the silence of one, or its word, is nothing to the others.
    own = {pilot.pk: listings.get(site.way_of(pilot.profile), NEVER) for pilot in pilots}
    verdicts = {
        pilot.pk: judge(
            _facts(pilot),
            own[pilot.pk].jobs.get(str(pilot.pk), ()),
            heard.get(str(pilot.pk)),
            reports is not None,
            own[pilot.pk].answered_at,
            patience,
            now,
        )
        for pilot in pilots
    }
    forgotten = _adopt(site, pilots, verdicts, now)
    _write_facts(verdicts, own)
    _register(pilots, now)
    ended = forgotten + _end(site, pilots, verdicts, client_for, now)
    endings.clean_up(ended, site, client_for, config, now)
    silent = silence.look(redis, pilots, _running(verdicts), reports, config, now)
    fresh = [pilot for pilot in pilots if own[pilot.pk].taken_now]
    surplus = [job for pilot in fresh for job in verdicts[pilot.pk].surplus]
    unknown_jobs.cancel(surplus, client_for, "it is a second one of its name", now)
    live = {str(pilot.pk) for pilot in pilots} - {str(pilot) for pilot in ended}
    for name in site.clusters:
        _unknown_jobs(site, name, listings, live, redis, client_for, config, behind[name], now)
    for name in site.clusters:
        bad_nodes.look(name, config, now)
    _ledger_sweeps(config, now)
    return Observed(
        heard=heard,
        redis_answers=reports is not None,
        resubmit=tuple(pilot for pilot, verdict in verdicts.items() if verdict.resubmit),
        lost=silent.lost(config.alive_s),
        forced=tuple(_forced(fresh, verdicts, silent, config, now)),
    )


def live_pilots() -> QuerySet[Pilot]:
    # Not select_related, which builds a profile per pilot.
    return Pilot.objects.exclude(state=PilotState.ENDED).prefetch_related("profile__access")


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


def _adopt(site: Site, pilots: Iterable[Pilot], verdicts: dict[UUID, Verdict], now: float) -> list[UUID]:
    """Answers the pilots that ended for it. The job of one that ended itself is an unknown one from then on."""
    forgotten = []
    rows = {pilot.pk: pilot for pilot in pilots}
    for pilot, verdict in verdicts.items():
        if verdict.adopt is not None:
            room = endings.make_room(rows[pilot], verdict.adopt, site, now)
            forgotten += room.ended
            if not room.taken:
                continue
            with moving() as cur:
                if fleet.submitted(cur, pilot, verdict.adopt, datetime.fromtimestamp(now, UTC)):
                    said = f"Job {verdict.adopt} bears its name: sbatch did not say so, but this is what it asked for."
                    tell("adopt", said, now, pilot=pilot, inputs={"job": verdict.adopt})
    return forgotten


def _write_facts(verdicts: dict[UUID, Verdict], own: Mapping[UUID, Listing]) -> None:
    """Only what is new: an old listing must not look like a new sighting. Seen is what was there when Slurm was asked."""
    by_time: dict[float, list[fleet.SlurmFact]] = defaultdict(list)
    for pilot, verdict in verdicts.items():
        listing = own[pilot]
        if verdict.job is None or not listing.taken_now or listing.answered_at is None:
            continue
        info = verdict.job.info
        by_time[listing.answered_at].append(
            fleet.SlurmFact(
                pilot=pilot,
                state=info.state,
                reason=info.reason,
                start_at=moment(info.started_at),
                end_at=moment(info.ends_at),
                node=info.nodes,
            )
        )
    if by_time:
        with moving() as cur:
            for at, facts in by_time.items():
                fleet.slurm_said(cur, facts, datetime.fromtimestamp(at, UTC))


def _register(pilots: Iterable[Pilot], now: float) -> None:
    registered = [
        pilot.pk for pilot in pilots if pilot.registered_at is not None and pilot.state in ON_ITS_WAY
    ]
    if registered:
        with moving() as cur:
            fleet.up(cur, registered, datetime.fromtimestamp(now, UTC))


def _end(
    site: Site, pilots: Iterable[Pilot], verdicts: dict[UUID, Verdict], client_for: ClientFor, now: float
) -> list[UUID]:
    rows = {pilot.pk: pilot for pilot in pilots}
    gone = [pilot for pilot in rows.values() if verdicts[pilot.pk].vanished]
    vanished = endings.accounted(gone, site, client_for)
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
            portal_url=portal_url_of(pilot.profile, config),
        )
        decision = forced(live, limits, now)
        if decision is not None:
            yield decision


def _unknown_jobs(
    site: Site,
    name: str,
    listings: Listings,
    live: set[str],
    redis: redis_library.Redis,
    client_for: ClientFor,
    config: Config,
    behind: Behind | None,
    now: float,
) -> None:
    """Of one cluster. Cancelled once they are overdue; never while the cluster is paused, as it is after a restored
    database, and never by a listing that is not new. `live`: pilots of all clusters: the name of none is unknown."""
    cluster, own = site.clusters[name], of_cluster(listings, name)
    fresh = {way for way, listing in own.items() if listing.taken_now}
    found = unknown_jobs.unknown(own.values(), live, cluster.orphans, now) if fresh else []
    if behind is not None:
        behind = restore_mark.deal(cluster, behind, found, own, now)
    restore_mark.remember(cluster, config, behind)
    if not fresh:
        return
    if found and not cluster.paused:
        reports = hear(redis, [job.job.pilot for job in found])
        due = unknown_jobs.overdue(found, reports, config.orphan_grace_s, config.alive_s, now)
        unknown_jobs.cancel(
            [job.job for job in due if job.job.way in fresh], client_for, "no pilot of ours owns it", now
        )
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
