"""Pools, profiles, the queue's counters and the heads of its lines → the views that the policies see. Reads only."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db.models import QuerySet

from portal.catalog.models import Model, Pool, Profile
from portal.db.transaction import moving
from portal.fleet.models import Fit, PoolState
from portal.ledger import transitions as ledger
from portal.ledger.states import Lane, RequestState
from scheduler.moments import seconds
from scheduler.observe.launch_history import Past, failures_in_a_row, pasts
from scheduler.policy.views import FitView, HoldView, PoolView, ProfileView


@dataclass(frozen=True, slots=True)
class Head:
    """Describe the request that a lane of a pool serves next."""

    accepted_at: float
    weight: float  # of its project


@dataclass(frozen=True, slots=True)
class Catalogue:
    """Hold what the catalog and measurements say of all pools, by pool."""

    profiles: Mapping[str, Sequence[str]]
    fits: Mapping[str, Mapping[str, FitView]]
    owners: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Demand:
    """Hold who waits for a pool, and how its launches went."""

    counts: Mapping[tuple[str, str, str], int] = field(default_factory=dict)  # by (pool, lane, state)
    heads: Sequence[Head] = ()
    past: Past = field(default_factory=Past)


def pool_views(now: float) -> tuple[PoolView, ...]:
    """Return all pools as the policies see them, in order of name."""
    with moving() as cur:
        counts = {key: max(0, n) for key, n in ledger.fold_depth(cur).items()}
    heads = _heads({pool for (pool, _, state), n in counts.items() if state == RequestState.QUEUED and n})
    past = pasts(now)
    states = {state.pool_id: state for state in PoolState.objects.all()}
    catalogue = _catalogue()
    return tuple(
        _view(
            pool,
            catalogue,
            state=states.get(pool.name) or PoolState(pool=pool),
            demand=Demand(counts, heads.get(pool.name, ()), past[pool.name]),
            now=now,
        )
        for pool in Pool.objects.select_related("environment").order_by("name")
    )


def catalogued(pools: QuerySet[Pool]) -> tuple[PoolView, ...]:
    """Return what the catalog and measurements say of the pools, and nothing of their load."""
    catalogue = _catalogue()
    return tuple(
        _view(pool, catalogue, state=PoolState(pool=pool), demand=Demand(), now=0.0)
        for pool in pools.select_related("environment")
    )


def profile_view(profile: Profile) -> ProfileView:
    """Return what the catalog says of the profile, and nothing of Slurm's."""
    return ProfileView(
        name=profile.name,
        enabled=profile.enabled,
        gpus=profile.gpus,
        mem_mb=profile.mem_mb,
        max_pilots=profile.max_pilots,
        preemptible=profile.preemptible,
        gpu_type=profile.gpu_type,
        project=profile.project.slug if profile.charge == "project" and profile.project else "",
        cost=profile.cost,
        walltime_s=profile.walltime_min * 60.0,
        least_s=profile.walltime_least_min * 60.0,
        nodes=profile.nodes,
    )


def _view(pool: Pool, catalogue: Catalogue, *, state: PoolState, demand: Demand, now: float) -> PoolView:
    counts, heads = demand.counts, demand.heads
    queued = {lane: counts.get((pool.name, lane, RequestState.QUEUED), 0) for lane in Lane}
    return PoolView(
        name=pool.name,
        profiles=tuple(catalogue.profiles.get(pool.name, ())),
        gpus=pool.gpus * pool.nodes,
        nodes=pool.nodes,
        mem_mb=pool.mem_mb,
        keep_alive_s=float(pool.keep_alive_s),
        load_s=state.load_s or pool.load_estimate_s,
        min_replicas=pool.min_replicas,
        max_replicas=pool.max_replicas,
        queued=sum(queued.values()),
        running=sum(counts.get((pool.name, lane, RequestState.RUNNING), 0) for lane in Lane),
        interest_until=seconds(state.interest_until),
        paused=pool.paused,
        failures=failures_in_a_row(demand.past),
        hold=hold_of(state),
        cap=pool.cap,
        queued_held=queued[Lane.HELD],
        queued_batch=queued[Lane.BATCH],
        waited_s=max((now - head.accepted_at for head in heads), default=None),
        service_s=state.service_s,
        weight=max((head.weight for head in heads), default=1.0),
        project=catalogue.owners.get(pool.name, ""),
        pinned_until=seconds(state.pinned_until),
        sleep_level=pool.sleep_level,
        asleep_mem_mb=pool.asleep_mem_mb or pool.mem_mb,
        wake_s=state.wake_s,
        fits=catalogue.fits.get(pool.name, {}),
        gpu_types=tuple(map(str, pool.environment.gpu_types)),
    )


def hold_of(state: PoolState) -> HoldView:
    """Return what the pool's stored state says of its failures."""
    return HoldView(
        failures=state.failures,
        retry_at=seconds(state.retry_at),
        latched=state.latched_at is not None,
        reason=state.reason,
    )


def _catalogue() -> Catalogue:
    return Catalogue(_profiles(), _fits(), _sole_projects())


def _heads(waiting: Iterable[str]) -> dict[str, list[Head]]:
    """Return, of each pool where somebody waits, the next request of each lane: a few probes of one index each."""
    names = sorted(waiting)
    if not names:
        return {}
    found: dict[str, list[Head]] = defaultdict(list)
    with moving() as cur:
        cur.execute(
            """SELECT p.name, extract(epoch FROM h.accepted_at), coalesce(o.weight, 1)
               FROM unnest(%s::text[]) p (name)
               CROSS JOIN unnest(%s::text[]) l (lane)
               CROSS JOIN LATERAL (
                 SELECT accepted_at, project_id FROM ledger_request
                 WHERE state = 'queued' AND pool = p.name AND lane = l.lane
                 ORDER BY order_key, id LIMIT 1) h
               LEFT JOIN accounts_project o ON o.id = h.project_id""",
            (names, list(Lane)),
        )
        for pool, accepted_at, weight in cur.fetchall():
            found[pool].append(Head(float(accepted_at), float(weight)))
    return found


def _profiles() -> dict[str, list[str]]:
    """Return the names of the profiles of each pool, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    pairs = Pool.profiles.through._default_manager.order_by("profile__name")
    for pool, profile in pairs.values_list("pool_id", "profile__name"):
        found[pool].append(profile)
    return found


def _fits() -> dict[str, dict[str, FitView]]:
    found: dict[str, dict[str, FitView]] = defaultdict(dict)
    for row in Fit.objects.all():
        found[row.pool_id][row.gpu_type] = FitView(fits=row.fits, load_s=row.load_s, service_s=row.service_s)
    return found


def _sole_projects() -> dict[str, str]:
    """Return, for pools that only one project may use, that project."""
    open_to: dict[str, set[str | None]] = defaultdict(set)
    rows: Iterable[Any] = Model.objects.filter(enabled=True).values_list(
        "pool_id", "is_public", "projects__slug"
    )
    for pool, public, project in rows:
        open_to[pool].add(None if public else project)
    return {
        pool: project
        for pool, projects in open_to.items()
        if len(projects) == 1 and (project := next(iter(projects))) is not None
    }
