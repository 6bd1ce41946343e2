"""Rows, counters and reports → the Snapshot that the policies see. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from django.db.models import Max

from portal.catalog.models import Pool, Profile
from portal.config import Config
from portal.fleet.models import REPLICA_ENDED, Cluster, Command, Pilot, PoolState, Replica, ReplicaState
from portal.fleet.slurm_words import meaning
from portal.ledger import transitions as ledger
from scheduler.hearing import Heard
from scheduler.moves import moving
from scheduler.observe import Observed, live_pilots
from scheduler.policy.snapshot import (
    ON_ITS_WAY,
    Failure,
    HoldView,
    Limits,
    PilotView,
    PoolView,
    ProfileView,
    ReplicaView,
    Snapshot,
)

# How far back failures in a row are looked for. A latch outlives it: it is stored.
HISTORY = timedelta(days=1)
# A replica that dies this soon after it was hot is a launch that failed.
SETTLED_S = 300.0
QUEUED, RUNNING = "queued", "running"


def snapshot_of(cluster: Cluster, observed: Observed, config: Config, now: float) -> Snapshot:
    pilots = list(live_pilots(cluster.name).annotate(last_end=Max("replicas__ended_at")))
    live = list(Replica.objects.filter(pilot__in=pilots).exclude(state__in=REPLICA_ENDED))
    alive = {str(p.pk): _alive(p, observed.heard.get(str(p.pk)), config.alive_s, now) for p in pilots}
    return Snapshot(
        pools=_pools(config, now),
        pilots=tuple(_pilot(p, alive[str(p.pk)], {r.pilot_id for r in live}) for p in pilots),
        replicas=tuple(_replica(r, observed.heard if alive[str(r.pilot_id)] else {}) for r in live),
        profiles=tuple(
            ProfileView(p.name, p.enabled, p.gpus, p.mem_mb, p.max_pilots, p.preemptible)
            for p in Profile.objects.filter(cluster=cluster.name)
        ),
        limits=Limits(config.pilot_idle_s, config.launch_backoff_s, config.latch_after),
        slurm_fresh=observed.listing.answered_at is not None and not cluster.error,
        slurm_error=cluster.error,
        paused=cluster.paused,
    )


def _alive(pilot: Pilot, heard: Heard | None, alive_s: float, now: float) -> bool:
    """Reported within alive_s; registering is a report."""
    last = heard.received_at if heard is not None else 0.0
    if pilot.registered_at is not None:
        last = max(last, pilot.registered_at.timestamp())
    return now - last <= alive_s


def _pilot(pilot: Any, alive: bool, occupied: set[Any]) -> PilotView:
    empty_since = None
    if pilot.pk not in occupied:
        empty_since = max(filter(None, (pilot.last_end, pilot.up_at, pilot.planned_at))).timestamp()
    said = meaning(pilot.slurm_state, pilot.slurm_reason)
    stuck = pilot.state in ON_ITS_WAY and pilot.slurm_state == "PENDING" and said.phase == "hopeless"
    return PilotView(
        id=str(pilot.pk),
        profile=pilot.profile.name,
        state=pilot.state,
        gpus=pilot.gpus,
        mem_mb=pilot.mem_mb,
        alive=alive,
        ends_at=pilot.slurm_end_at.timestamp() if pilot.slurm_end_at else None,
        empty_since=empty_since,
        hopeless=said.text if stuck else "",
    )


def _replica(row: Replica, heard: dict[str, Heard]) -> ReplicaView:
    report = heard.get(str(row.pilot_id))
    seen = report.replicas.get(str(row.pk)) if report is not None else None
    return ReplicaView(
        id=str(row.pk),
        pool=row.pool_id,
        pilot=str(row.pilot_id),
        state=row.state,
        gpu_indices=tuple(row.gpu_indices),
        mem_mb=row.mem_mb,
        in_flight=seen.held + seen.filler if seen is not None else None,
        idle_since=seen.idle_since if seen is not None else None,
        draining_at=row.draining_at.timestamp() if row.draining_at else None,
    )


def _pools(config: Config, now: float) -> tuple[PoolView, ...]:
    with moving() as cur:
        depth = ledger.fold_depth(cur)
    counts: dict[tuple[str, str], int] = defaultdict(int)
    for (name, _lane, stage), n in depth.items():
        counts[name, stage] += max(0, n)
    past = _pasts(now)
    states = {state.pool_id: state for state in PoolState.objects.all()}
    found = []
    for pool in Pool.objects.prefetch_related("profiles").order_by("name"):
        state = states.get(pool.name) or PoolState(pool=pool)
        found.append(
            PoolView(
                name=pool.name,
                profiles=tuple(profile.name for profile in pool.profiles.all()),
                gpus=pool.gpus,
                mem_mb=pool.mem_mb,
                keep_alive_s=float(pool.keep_alive_s),
                load_s=state.load_s or pool.load_estimate_s,
                min_replicas=pool.min_replicas,
                max_replicas=pool.max_replicas,
                queued=counts[pool.name, QUEUED],
                running=counts[pool.name, RUNNING],
                interest_until=state.interest_until.timestamp() if state.interest_until else None,
                paused=pool.paused,
                failures=failures_in_a_row(past[pool.name]),
                hold=hold_of(state),
            )
        )
    return tuple(found)


def hold_of(state: PoolState) -> HoldView:
    retry_at = state.retry_at.timestamp() if state.retry_at else None
    return HoldView(state.failures, retry_at, state.latched_at is not None, state.reason)


@dataclass(frozen=True, slots=True)
class Launch:
    """One replica of the past."""

    failed: bool
    hot_at: float | None
    ended_at: float | None
    reason: str


@dataclass(frozen=True, slots=True)
class Past:
    launches: tuple[Launch, ...] = ()
    cleared_at: float = 0.0  # the last relaunch command


def failures_in_a_row(past: Past) -> tuple[Failure, ...]:
    """Failed launches since the last one that went well or the last time a person cleared them. Pure."""
    since = past.cleared_at
    failed = []
    for launch in past.launches:
        lasted_s = (launch.ended_at or 0.0) - launch.hot_at if launch.hot_at is not None else 0.0
        if launch.failed and launch.ended_at is not None:
            failed.append(Failure(launch.ended_at, launch.reason))
            if lasted_s > SETTLED_S:
                since = max(since, launch.ended_at)
        elif launch.hot_at is not None:
            since = max(since, launch.hot_at)
    return tuple(sorted((f for f in failed if f.at > since), key=lambda failure: failure.at))


def _pasts(now: float) -> dict[str, Past]:
    after = datetime.fromtimestamp(now, UTC) - HISTORY
    launches: dict[str, list[Launch]] = defaultdict(list)
    rows: Iterable[Any] = Replica.objects.filter(wanted_at__gt=after).values_list(
        "pool_id", "state", "hot_at", "ended_at", "end_reason"
    )
    for pool, state, hot_at, ended_at, reason in rows:
        failed = state == ReplicaState.FAILED
        launches[pool].append(Launch(failed, _seconds(hot_at), _seconds(ended_at), _brief(reason)))
    cleared = dict(
        Command.objects.filter(kind=Command.Kind.RELAUNCH, state=Command.State.DONE, done_at__gt=after)
        .values_list("pool_id")
        .annotate(Max("done_at"))
    )
    found: dict[str, Past] = defaultdict(Past)
    for pool in {*launches, *cleared}:
        found[pool] = Past(tuple(launches[pool]), _seconds(cleared.get(pool)) or 0.0)
    return found


def _brief(reason: str) -> str:
    """The first line: what follows is the engine's log, for operators."""
    line = reason.strip().splitlines()[0] if reason.strip() else ""
    return line[:300]


def _seconds(moment: datetime | None) -> float | None:
    return moment.timestamp() if moment is not None else None
