"""Rows, counters and reports → the Snapshot that the policies see. Reads only."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from django.db.models import Max

from portal.accounts.models import Project
from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet.models import Cluster, ProfileState, Replica
from portal.fleet.slurm_words import meaning
from portal.fleet.states import ON_ITS_WAY, REPLICA_ENDED, PilotState, ReplicaState
from scheduler.moments import seconds
from scheduler.observe.candidates import looked_at_by
from scheduler.observe.observation import Observed, live_pilots
from scheduler.observe.pool_views import pool_views, profile_view
from scheduler.observe.reports import Heard
from scheduler.observe.ways import Site, served
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import Limits, PilotView, ProfileView, ReplicaView

# Rows, not models: of each there are as many as GPUs, in every tick, and nothing is saved here.
_OF_PILOTS = (
    "id", "profile__name", "profile__scratch", "profile__gpu_type", "state", "gpus", "nodes", "mem_mb", "gpu_type",
    "node", "replaces_id", "slurm_state", "slurm_reason", "slurm_end_at", "planned_at", "registered_at", "up_at",
    "draining_at", "staged", "stage_wish",
)  # fmt: skip
_OF_REPLICAS = (
    "id", "pool_id", "pilot_id", "state", "gpu_indices", "mem_mb", "asleep_mem_mb", "sleep_level", "wanted_at", "hot_at",
    "draining_at", "asleep_at",
)  # fmt: skip


def snapshot_of(site: Site, observed: Observed, config: Config, now: float) -> Snapshot:
    """Return the fleet as the policies see it: what the tables hold, and what this tick has observed."""
    pilots = {str(p.id): p for p in _pilots()}
    profiles = list(served(config).select_related("project", "access").order_by("name"))
    silent = _silent(site, profiles)
    strange = {p.profile__name for p in pilots.values()} - {profile.name for profile in profiles}
    silent |= dict.fromkeys(
        strange, "No way to Slurm leads to its cluster: choose an access for its profile."
    )
    live = list(_replicas([p.id for p in pilots.values()]))
    fresh = {id_ for id_, p in pilots.items() if _is_fresh(p, observed.heard.get(id_), config.alive_s, now)}
    heard = {id_: said for id_, said in observed.heard.items() if id_ in fresh}
    occupied = {r.pilot_id for r in live} | looked_at_by()
    leaving = {pilot for pilot, said in observed.heard.items() if said.leaves}
    return Snapshot(
        pools=pool_views(now),
        pilots=tuple(
            _pilot(id_, p, id_ not in observed.lost, id_ in leaving, occupied) for id_, p in pilots.items()
        ),
        replicas=tuple(_replica(r, heard) for r in live),
        profiles=_profiles(site, profiles, now),
        limits=_limits(config),
        now=now,
        silent=silent,
        paused=frozenset(p.name for p in profiles if site.paused(p.cluster)),
    )


def _silent(site: Site, profiles: Iterable[Profile]) -> dict[str, str]:
    """Return why jobs of a profile are neither launched nor let go now, by its name: its way was not heard."""
    found = {}
    for profile in profiles:
        way = site.way_of(profile)
        row = site.ways.get(way)
        if row is None or row.answered_at is None or row.error:
            said = row.error if row is not None else ""
            found[profile.name] = (
                f"{site.label(way)} does not answer; nothing is started until it does. {said}".strip()
            )
    return found


def _pilots() -> Iterable[Any]:
    live = live_pilots().prefetch_related(None).annotate(last_end=Max("replicas__ended_at"))
    return live.values_list(*_OF_PILOTS, "last_end", named=True)


def _replicas(pilots: list[UUID]) -> Iterable[Any]:
    rows = Replica.objects.filter(pilot__in=pilots).exclude(state__in=REPLICA_ENDED)
    return rows.values_list(*_OF_REPLICAS, named=True)


def _limits(config: Config) -> Limits:
    caps = Project.objects.exclude(max_gpus=None).values_list("slug", "max_gpus")
    return Limits(
        pilot_idle_s=config.pilot_idle_s,
        launch_backoff_s=config.launch_backoff_s,
        latch_after=config.latch_after,
        switch_after_s=config.switch_after_s,
        min_residency_s=config.min_residency_s,
        wait_bound_s=config.wait_bound_s,
        lull_s=config.lull_s,
        hand_over_margin_s=config.hand_over_margin_s,
        max_gpus=config.max_gpus or None,
        project_gpus={slug: int(most) for slug, most in caps if most is not None},
    )


def _is_fresh(pilot: Any, heard: Heard | None, alive_s: float, now: float) -> bool:
    """Return whether it reported within alive_s; registering is a report.

    What an older report says of load is not known any more."""
    last = heard.received_at if heard is not None else 0.0
    if pilot.registered_at is not None:
        last = max(last, pilot.registered_at.timestamp())
    return now - last <= alive_s


def _pilot(id_: str, pilot: Any, alive: bool, leaves: bool, occupied: set[UUID]) -> PilotView:
    empty_since = None
    if pilot.id not in occupied:
        empty_since = max(filter(None, (pilot.last_end, pilot.up_at, pilot.planned_at))).timestamp()
    said = meaning(pilot.slurm_state, pilot.slurm_reason)
    stuck = pilot.state in ON_ITS_WAY and pilot.slurm_state == "PENDING" and said.phase == "hopeless"
    return PilotView(
        id=id_,
        profile=pilot.profile__name,
        state=PilotState(pilot.state),
        gpus=pilot.gpus,
        nodes=pilot.nodes,
        mem_mb=pilot.mem_mb,
        alive=alive,
        leaves=leaves,
        ends_at=seconds(pilot.slurm_end_at),
        empty_since=empty_since,
        hopeless=said.text if stuck else "",
        planned_at=pilot.planned_at.timestamp(),
        gpu_type=pilot.gpu_type or pilot.profile__gpu_type,
        node=pilot.node,
        replaces=str(pilot.replaces_id) if pilot.replaces_id else "",
        draining_at=seconds(pilot.draining_at),
        staged=frozenset(pilot.staged),
        scratch=bool(pilot.profile__scratch),
        stage_wish=pilot.stage_wish,
    )


def _replica(row: Any, heard: dict[str, Heard]) -> ReplicaView:
    """Return the replica as the policies see it. `heard`: the reports of the pilots whose report is fresh."""
    id_, pilot = str(row.id), str(row.pilot_id)
    report = heard.get(pilot)
    seen = report.replicas.get(id_) if report is not None else None
    state = ReplicaState(row.state)
    asleep = state == ReplicaState.ASLEEP
    return ReplicaView(
        id=id_,
        pool=row.pool_id,
        pilot=pilot,
        state=state,
        # Asleep it holds host memory, and no GPU.
        gpu_indices=() if asleep else tuple(row.gpu_indices),
        home_gpus=tuple(row.gpu_indices),
        mem_mb=row.asleep_mem_mb or row.mem_mb if asleep else row.mem_mb,
        in_flight=seen.held + seen.filler if seen is not None else None,
        idle_since=seen.idle_since if seen is not None else None,
        draining_at=seconds(row.draining_at),
        wanted_at=row.wanted_at.timestamp(),
        hot_at=seconds(row.hot_at),
        sleep_level=row.sleep_level,
        can_sleep=seen.can_sleep if seen is not None else 0,
        asleep_at=seconds(row.asleep_at),
    )


def _profiles(site: Site, profiles: Iterable[Profile], now: float) -> tuple[ProfileView, ...]:
    states = {state.profile_id: state for state in ProfileState.objects.all()}
    none = Cluster()
    return tuple(
        _profile(p, states.get(p.pk) or ProfileState(profile=p), site.clusters.get(p.cluster, none), now)
        for p in profiles
    )


def _profile(profile: Profile, state: ProfileState, cluster: Cluster, now: float) -> ProfileView:
    starts_at = seconds(state.starts_at)
    return dataclasses.replace(
        profile_view(profile),
        free_until=free_until(
            profile.partition, cluster.partitions, cluster.reservations, now, profile.reservation
        ),
        wait_p50_s=state.wait_p50_s,
        wait_p90_s=state.wait_p90_s,
        starts_in_s=max(0.0, starts_at - now) if starts_at is not None else None,
        latched=state.reason if state.latched_at is not None else "",
    )


def free_until(
    partition: str,
    partitions: dict[str, Any],
    reservations: Iterable[dict[str, Any]],
    now: float,
    own: str = "",
) -> float | None:
    """Start of the next reservation that takes every node of the partition; None when there is none. Pure. `own`: those
    in which the jobs themselves run.

    One that takes some of the nodes leaves others: Slurm knows which, and `--time-min` lets it fit the job."""
    groups = partitions.get(partition, {}).get("groups", [])
    nodes = sum(int(group["count"]) for group in groups)
    starts = [
        float(r["starts_at"])
        for r in reservations
        if r["starts_at"] is not None
        and r["starts_at"] > now
        and r.get("name") not in own.split(",")
        and (not r["partition"] or r["partition"] == partition)
        and ("ALL_NODES" in r["flags"] or (nodes and (r["node_count"] or 0) >= nodes))
    ]
    return min(starts, default=None)
