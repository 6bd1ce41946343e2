"""Everything that was seen in this tick: stored as it was seen, and returned with the consequences that follow from it.

Only what was heard changes anything, and nothing is moved, ended or cancelled here: `scheduler.act` carries the
consequences out. What the fleet looks like afterwards is `scheduler.observe.snapshot`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

import redis as redis_library
from django.db.models import QuerySet

from portal.config import Config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot
from portal.fleet.states import ON_ITS_WAY, PilotState
from scheduler.jobs.spec import portal_url_of
from scheduler.moments import moment, seconds
from scheduler.observe import restore_mark, silence, unknown_jobs
from scheduler.observe.emergencies import Allowance, LiveJob, emergency
from scheduler.observe.listing import NEVER, ClientFor, Listing, Listings, of_cluster
from scheduler.observe.reports import Heard, hear
from scheduler.observe.restore_mark import Behind
from scheduler.observe.silence import Silence
from scheduler.observe.vanished_jobs import accounted
from scheduler.observe.verdicts import Patience, PilotFacts, Verdict, adoption, ending, judge
from scheduler.observe.ways import Site, silence_notes
from scheduler.policy.consequences import Consequence, EndPilot, FollowJobs, ResubmitPilot
from scheduler.policy.decisions import CancelPilot, DrainPilot

FactsByTime = Mapping[float, list[fleet.SlurmFact]]


@dataclass(frozen=True, slots=True)
class Observed:
    """The facts of one tick. `consequences` are to be carried out before anything else is decided, in their order;
    `resubmit` after the commands, which may hold them. `kept_back` and `behind` are what `settle` stores once that is
    done."""

    heard: Mapping[str, Heard]
    lost: frozenset[str] = frozenset()  # pilots that are up and silent for alive_s, though others were heard
    consequences: tuple[Consequence | DrainPilot | CancelPilot, ...] = ()
    resubmit: tuple[ResubmitPilot, ...] = ()  # intents that Slurm has never seen
    kept_back: FactsByTime | None = None
    behind: Mapping[str, Behind | None] | None = None


def observe(
    site: Site,
    redis: redis_library.Redis,
    listings: Listings,
    client_for: ClientFor,
    config: Config,
    now: float,
) -> Observed:
    """Judge every live pilot by the listing of its own way and its agent's report, and look for what no pilot explains.

    The consequences stand in the order in which they do no harm: the silences of Slurm; pauses, before anything unknown
    is cancelled; the jobs found for planned pilots, before they move on; ends; silences of agents; cancellations;
    emergencies of jobs that live."""
    pilots = list(live_pilots())
    reports = hear(redis, [str(pilot.pk) for pilot in pilots])
    # Each pilot is judged by what its own way said: the silence of one, or its word, is nothing to the others.
    own = {pilot.pk: listings.get(site.way_of(pilot.profile), NEVER) for pilot in pilots}
    verdicts = _verdicts(pilots, own, reports, config, now)
    fresh = [pilot for pilot in pilots if own[pilot.pk].taken_now]
    silent = silence.look(redis, pilots, _running(verdicts), reports, config, now)
    emergencies = tuple(_emergencies(fresh, verdicts, silent, config, now))
    drained = {decision.pilot for decision in emergencies if isinstance(decision, DrainPilot)}
    _store(_facts_of([pilot for pilot in fresh if str(pilot.pk) not in drained], verdicts, own))
    ends = tuple(_ends(site, pilots, verdicts, client_for))
    live = {str(pilot.pk) for pilot in pilots} - {end.pilot for end in ends}
    unexplained = [_unexplained(site, name, listings, live, redis, config, now) for name in site.clusters]
    return Observed(
        heard=reports or {},
        lost=silent.lost(config.alive_s),
        consequences=(
            *silence_notes(site),
            *(one.pause for one in unexplained if one.pause is not None),
            *(found for pilot, verdict in verdicts.items() if (found := adoption(str(pilot), verdict))),
            *_moves(pilots, fresh, verdicts),
            *ends,
            *silent.notes,
            *(unknown_jobs.surplus(job) for pilot in fresh for job in verdicts[pilot.pk].surplus),
            *(cancellation for one in unexplained for cancellation in one.cancellations),
            *emergencies,
        ),
        resubmit=tuple(_resubmissions(pilots, verdicts)),
        kept_back=_facts_of([pilot for pilot in fresh if str(pilot.pk) in drained], verdicts, own),
        behind={one.cluster: one.behind for one in unexplained},
    )


def settle(site: Site, observed: Observed, config: Config) -> None:
    """Store what a crash before the consequences were carried out would have lost for good: that an end has moved, which
    is seen only once, and that the tables are not behind any more."""
    _store(observed.kept_back or {})
    for name, behind in (observed.behind or {}).items():
        restore_mark.remember(site.clusters[name], config, behind)


def live_pilots() -> QuerySet[Pilot]:
    """Return the pilots that have not ended, with their profiles and accesses."""
    # Not select_related, which builds a profile per pilot.
    return Pilot.objects.exclude(state=PilotState.ENDED).prefetch_related("profile__access")


def _verdicts(
    pilots: Iterable[Pilot],
    own: Mapping[UUID, Listing],
    reports: Mapping[str, Heard] | None,
    config: Config,
    now: float,
) -> dict[UUID, Verdict]:
    heard = reports or {}
    patience = Patience(config.alive_s, 3 * config.sync_interval_s)
    return {
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


def _facts_of(
    fresh: Iterable[Pilot], verdicts: Mapping[UUID, Verdict], own: Mapping[UUID, Listing]
) -> FactsByTime:
    """Return what new listings said of pilots, by the time at which Slurm was asked: that is when it was seen. An old
    listing must not look like a new sighting."""
    by_time: dict[float, list[fleet.SlurmFact]] = defaultdict(list)
    for pilot in fresh:
        job, at = verdicts[pilot.pk].job, own[pilot.pk].answered_at
        if job is None or at is None:
            continue
        info = job.info
        by_time[at].append(
            fleet.SlurmFact(
                pilot=pilot.pk,
                state=info.state,
                reason=info.reason,
                start_at=moment(info.started_at),
                end_at=moment(info.ends_at),
                node=info.nodes,
            )
        )
    return by_time


def _store(facts: FactsByTime) -> None:
    if facts:
        with moving() as cur:
            for at, some in facts.items():
                fleet.slurm_said(cur, some, datetime.fromtimestamp(at, UTC))


def _moves(
    pilots: Iterable[Pilot], fresh: Iterable[Pilot], verdicts: Mapping[UUID, Verdict]
) -> Iterator[FollowJobs]:
    jobs = ((pilot, verdicts[pilot.pk].job) for pilot in fresh if pilot.state in ON_ITS_WAY)
    pending = tuple(str(pilot.pk) for pilot, job in jobs if job is not None and job.info.state == "PENDING")
    up = tuple(
        str(pilot.pk) for pilot in pilots if pilot.registered_at is not None and pilot.state in ON_ITS_WAY
    )
    if pending or up:
        yield FollowJobs(pending=pending, up=up)


def _ends(
    site: Site, pilots: Collection[Pilot], verdicts: Mapping[UUID, Verdict], client_for: ClientFor
) -> Iterator[EndPilot]:
    vanished = accounted([pilot for pilot in pilots if verdicts[pilot.pk].vanished], site, client_for)
    for pilot in pilots:
        end = ending(_facts(pilot), verdicts[pilot.pk], vanished.get(pilot.pk))
        if end is not None:
            yield end


def _resubmissions(pilots: Iterable[Pilot], verdicts: Mapping[UUID, Verdict]) -> Iterator[ResubmitPilot]:
    reason = "Slurm does not know the job that was asked of it: it is submitted once more."
    for pilot in sorted(pilots, key=lambda pilot: pilot.planned_at):
        if verdicts[pilot.pk].resubmit:
            yield ResubmitPilot(pilot=str(pilot.pk), reason=reason)


def _running(verdicts: Mapping[UUID, Verdict]) -> list[str]:
    jobs = {pilot: verdict.job for pilot, verdict in verdicts.items() if verdict.job is not None}
    return [str(pilot) for pilot, job in jobs.items() if job.info.state == "RUNNING"]


def _emergencies(
    pilots: Iterable[Pilot],
    verdicts: Mapping[UUID, Verdict],
    silent: Silence,
    config: Config,
    now: float,
) -> Iterator[DrainPilot | CancelPilot]:
    allowance = Allowance(config.register_s, config.silent_cancel_s)
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
        decision = emergency(live, allowance, now)
        if decision is not None:
            yield decision


@dataclass(frozen=True, slots=True)
class Unexplained:
    """A cluster's jobs that no pilot of ours explains: what follows from them, and what is left to be heard."""

    cluster: str
    behind: Behind | None
    pause: Consequence | None = None
    cancellations: tuple[Consequence, ...] = ()


def _unexplained(
    site: Site,
    name: str,
    listings: Listings,
    live: Collection[str],
    redis: redis_library.Redis,
    config: Config,
    now: float,
) -> Unexplained:
    """Look for unknown jobs of one cluster. They are cancelled once they are overdue; never while the cluster is
    paused, as it is after a restored database, and never by a listing that is not new. `live`: pilots of all clusters:
    the name of none is unknown."""
    cluster, own = site.clusters[name], of_cluster(listings, name)
    behind = restore_mark.look(cluster, config, now)
    fresh = {way for way, listing in own.items() if listing.taken_now}
    found = unknown_jobs.unknown(own.values(), live, cluster.orphans, now) if fresh or behind else []
    pause = None
    if behind is not None:
        pause, behind = restore_mark.deal(cluster, behind, found, own)
    if not fresh:
        return Unexplained(name, behind, pause)
    due: list[unknown_jobs.UnknownJob] = []
    if found and not cluster.paused and pause is None:
        reports = hear(redis, [job.job.pilot for job in found])
        due = unknown_jobs.overdue(found, reports, config.orphan_grace_s, config.alive_s, now)
    since = {str(job.job.info.job_id): job.since for job in found}
    if since != cluster.orphans:
        cluster.orphans = since
        cluster.save(update_fields=["orphans"])
    orphans = (unknown_jobs.orphan(one.job) for one in due if one.job.way in fresh)
    return Unexplained(name, behind, pause, tuple(orphans))
