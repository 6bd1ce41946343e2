"""The policies together, as properties over arbitrary fleets (invariants 1, 7, 9 and 11)."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

from hypothesis import given, settings

from scheduler.policy.decide import decide
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainPilot,
    DrainReplica,
    HoldPool,
    HoldProfile,
    LaunchPilot,
    PlaceReplica,
    WakeReplica,
)
from scheduler.policy.snapshot import Snapshot
from tests.unit.fleets import BOUND_S, NOW, RESIDENCY_S, acted, beside, drained, snapshots

Started = LaunchPilot | PlaceReplica | WakeReplica


def held_by_project(snapshot: Snapshot, project: str) -> int:
    """Count GPUs in a project's own pilots, and those that models which only it may use hold in shared
    ones."""
    owners = {profile.name: profile.project for profile in snapshot.profiles}
    owned = {pilot.id: owners[pilot.profile] for pilot in snapshot.pilots}
    own = {pool.name for pool in snapshot.pools if pool.project == project}
    gpus = sum(pilot.gpus for pilot in snapshot.pilots if owned[pilot.id] == project)
    shared = (r for r in snapshot.replicas if r.pool in own and not owned[r.pilot] and r.state != "asleep")
    return gpus + sum(len(replica.gpu_indices) for replica in shared)


def assert_nothing_is_given_twice(snapshot: Snapshot) -> None:
    for pilot in snapshot.pilots:
        here = snapshot.by_pilot[pilot.id]
        claims = Counter(gpu for r in here if r.state != "asleep" for gpu in r.gpu_indices)
        assert all(n == 1 for n in claims.values()), f"{pilot.id}: a GPU has two owners"
        assert set(claims) <= set(range(pilot.gpus))
        assert sum(replica.mem_mb for replica in here) <= pilot.mem_mb, f"{pilot.id}: memory"


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_gpus_and_memory_are_never_given_twice_nor_to_whom_they_do_not_fit(snapshot: Snapshot) -> None:
    fleet, now = snapshot, NOW
    for _ in range(4):
        made = decide(replace(fleet, now=now))
        need = {pool.name: pool.gpus for pool in fleet.pools}
        for decision in made:
            if isinstance(decision, Started):
                assert len(decision.gpu_indices) == need[decision.pool]
        fleet = acted(fleet, made, now)
        assert_nothing_is_given_twice(fleet)
        fleet, now = drained(fleet, now), now + 10
        assert_nothing_is_given_twice(fleet)


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_a_replica_over_several_nodes_has_a_job_of_so_many_for_itself(snapshot: Snapshot) -> None:
    fleet, now = snapshot, NOW
    for _ in range(4):
        fleet = acted(fleet, decide(replace(fleet, now=now)), now)
        pools = {pool.name: pool for pool in fleet.pools}
        for pilot in fleet.pilots:
            here = [pools[r.pool] for r in fleet.by_pilot[pilot.id]]
            assert all(pool.nodes == pilot.nodes for pool in here)
            assert pilot.nodes == 1 or all(pool.gpus == pilot.gpus for pool in here)
            assert pilot.nodes == 1 or len(here) <= 1
        fleet, now = drained(fleet, now), now + 10


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_caps_of_profile_cluster_and_project_are_kept(snapshot: Snapshot) -> None:
    made = decide(snapshot)
    launched = [d for d in made if isinstance(d, LaunchPilot)]
    ended = {d.pilot for d in made if isinstance(d, CancelPilot)}
    after = acted(snapshot, [d for d in made if d.kind != "cancel"], NOW)
    profiles = {profile.name: profile for profile in snapshot.profiles}
    for name in {launch.profile for launch in launched}:
        assert sum(pilot.profile == name for pilot in after.pilots) <= profiles[name].max_pilots
        assert profiles[name].enabled and not profiles[name].latched
    if launched and snapshot.limits.max_gpus is not None:
        assert sum(pilot.gpus for pilot in after.pilots) <= snapshot.limits.max_gpus
    for project, most in snapshot.limits.project_gpus.items():
        before = held_by_project(snapshot, project)
        assert held_by_project(after, project) <= max(most, before), ended


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_a_pool_runs_only_where_it_may(snapshot: Snapshot) -> None:
    profiles = {profile.name: profile for profile in snapshot.profiles}
    pilots = {pilot.id: pilot for pilot in snapshot.pilots}
    for decision in decide(snapshot):
        if not isinstance(decision, Started):
            continue
        pool = next(p for p in snapshot.pools if p.name == decision.pool)
        where = None if isinstance(decision, LaunchPilot) else pilots[decision.pilot]
        profile = profiles[decision.profile if isinstance(decision, LaunchPilot) else where.profile]  # type: ignore[union-attr]
        gpu_type = (where.gpu_type if where is not None else "") or profile.gpu_type
        assert profile.name in pool.profiles
        assert profile.project in ("", pool.project)
        assert gpu_type not in pool.fits or pool.fits[gpu_type].fits
        assert not (pool.gpu_types and gpu_type) or gpu_type in pool.gpu_types
        if isinstance(decision, LaunchPilot) and profile.free_until is not None:
            assert profile.free_until - NOW >= profile.least_s
            assert min(decision.limit_s or profile.walltime_s, profile.walltime_s) <= profile.free_until - NOW


@settings(max_examples=400, deadline=None)
@given(snapshots())
def test_the_first_replica_that_people_wait_for_is_in_no_job_that_slurm_may_preempt(
    snapshot: Snapshot,
) -> None:
    profiles = {profile.name: profile for profile in snapshot.profiles}
    pilots = {pilot.id: profiles[pilot.profile] for pilot in snapshot.pilots}
    gone = snapshot.leaving | {
        r.id
        for pilot in snapshot.pilots
        for r in snapshot.by_pilot[pilot.id]
        if pilot.state == "up" and not pilot.serves
    }
    for decision in decide(snapshot):
        if not isinstance(decision, Started):
            continue
        pool = next(p for p in snapshot.pools if p.name == decision.pool)
        asked = pool.queued_held or pool.min_replicas or (pool.interest_until or 0) > NOW
        if not asked and (pool.pinned_until or 0) <= NOW:
            continue
        has_steady = any(
            r.state in ("wanted", "starting", "hot") and r.id not in gone and not pilots[r.pilot].preemptible
            for r in snapshot.by_pool[pool.name]
        )
        choices = [
            p
            for p in snapshot.profiles
            if p.name in pool.profiles
            and not p.preemptible
            and p.enabled
            and not p.latched
            and p.project in ("", pool.project)
            and (p.gpu_type not in pool.fits or pool.fits[p.gpu_type].fits)
            and (not pool.gpu_types or p.gpu_type in ("", *pool.gpu_types))
            and (p.gpus >= pool.gpus if pool.nodes == 1 else p.gpus * pool.nodes == pool.gpus)
            and p.nodes >= pool.nodes
            and p.mem_mb >= pool.mem_mb
        ]
        is_launch = isinstance(decision, LaunchPilot)
        profile = profiles[decision.profile] if is_launch else pilots[decision.pilot]  # type: ignore[union-attr]
        assert not profile.preemptible or has_steady or not choices


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_at_most_one_replica_a_tick_and_none_for_what_is_held_back(snapshot: Snapshot) -> None:
    started = Counter(d.pool for d in decide(snapshot) if isinstance(d, Started))
    silent = {pilot.id for pilot in snapshot.pilots if pilot.state == "up" and not pilot.alive}
    gone = snapshot.leaving
    for name, times in started.items():
        pool = next(p for p in snapshot.pools if p.name == name)
        serving = [
            r
            for r in snapshot.by_pool[name]
            if r.state in ("wanted", "starting", "hot") and r.pilot not in silent and r.id not in gone
        ]
        assert times == 1
        assert len(serving) < pool.max_replicas
        assert not (pool.paused or pool.hold.latched or len(pool.failures) >= 3)


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_busy_is_taken_out_of_routing_only_when_somebody_has_waited_too_long_or_a_successor_is_hot(
    snapshot: Snapshot,
) -> None:
    replicas = {r.id: r for r in snapshot.replicas}
    gone = snapshot.leaving
    starving = [p for p in snapshot.pools if (p.waited_s or 0) >= BOUND_S]
    for decision in decide(snapshot):
        if isinstance(decision, DrainReplica):
            replica = replicas[decision.replica]
            assert replica.state in ("hot", "asleep")
            if replica.state == "hot" and replica.id not in gone:
                assert replica.in_flight is not None
                assert replica.in_flight == 0 or starving
        if isinstance(decision, DrainPilot):
            here = snapshot.by_pilot[decision.pilot]
            # What nobody uses goes with its pilot; busy is only what a successor has taken over.
            assert all(r.state in ("asleep", "draining") or r.id in gone or r.in_flight == 0 for r in here)
        if isinstance(decision, CancelPilot):
            assert next(p for p in snapshot.pilots if p.id == decision.pilot).state != "up"


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_work_switches_out_nothing_that_is_pinned_kept_ready_or_only_just_hot(snapshot: Snapshot) -> None:
    replicas = {r.id: r for r in snapshot.replicas}
    pools = {p.name: p for p in snapshot.pools}
    gone: Counter[str] = Counter()
    for decision in decide(snapshot):
        if isinstance(decision, DrainReplica) and "gain_s" in decision.inputs:
            replica, pool = replicas[decision.replica], pools[decision.pool]
            assert pool.pinned_until is None or pool.pinned_until <= NOW
            if replica.state == "hot":
                assert replica.hot_at is not None and NOW - replica.hot_at >= RESIDENCY_S
                gone[pool.name] += 1
            if decision.sleep_level:
                assert decision.sleep_level <= min(pool.sleep_level, replica.can_sleep)
    for name, n in gone.items():
        serving = sum(r.state in ("wanted", "starting", "hot") for r in snapshot.by_pool[name])
        assert serving - n >= pools[name].min_replicas


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_no_answer_launches_and_kills_nothing(snapshot: Snapshot) -> None:
    silent = {profile.name: "Slurm does not answer." for profile in snapshot.profiles}
    for decision in decide(replace(snapshot, silent=silent)):
        assert isinstance(decision, PlaceReplica | WakeReplica | HoldPool)


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_a_way_that_is_silent_or_paused_holds_its_own_profiles_only(snapshot: Snapshot) -> None:
    of = {pilot.id: pilot.profile for pilot in snapshot.pilots}
    for decision in decide(snapshot):
        match decision:
            case LaunchPilot(profile=name):
                assert name not in snapshot.silent and name not in snapshot.paused
            case PlaceReplica(pilot=pilot) | WakeReplica(pilot=pilot):
                assert of[pilot] not in snapshot.paused
            case DrainReplica(pilot=pilot) | DrainPilot(pilot=pilot) | CancelPilot(pilot=pilot):
                assert of[pilot] not in snapshot.silent


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_what_is_silent_takes_nothing_from_models_that_run_elsewhere(snapshot: Snapshot) -> None:
    """Of two fleets side by side, which share no profile, the one decides the same whether the other's Slurm answers."""
    mine = replace(
        snapshot,
        silent={},
        paused=frozenset(),
        limits=replace(snapshot.limits, max_gpus=None, project_gpus={}),
    )
    others = beside(mine)
    both = replace(
        mine,
        pools=mine.pools + others.pools,
        pilots=mine.pilots + others.pilots,
        replicas=mine.replicas + others.replicas,
        profiles=mine.profiles + others.profiles,
    )
    held = replace(both, silent={profile.name: "Slurm does not answer." for profile in others.profiles})
    names = {pool.name for pool in mine.pools} | {pilot.id for pilot in mine.pilots} | {"gpu", "spare", "own"}

    def own(fleet: Snapshot) -> list[Decision]:
        return [d for d in decide(fleet) if names & {getattr(d, f, "") for f in ("pool", "pilot", "profile")}]

    assert own(held) == own(both)


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_without_work_use_interest_pin_or_a_floor_nothing_starts(snapshot: Snapshot) -> None:
    """Parked requests reach the policies as nothing at all, whatever else is true of the pool (invariant 11)."""
    quiet = tuple(
        replace(
            p, queued=0, running=0, interest_until=None, pinned_until=None, min_replicas=0, keep_alive_s=0
        )
        for p in snapshot.pools
    )
    idle = tuple(replace(r, in_flight=0 if r.in_flight else r.in_flight) for r in snapshot.replicas)
    made = decide(replace(snapshot, pools=quiet, replicas=idle))
    assert not [d for d in made if isinstance(d, Started)]


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_deciding_again_after_acting_comes_to_rest(snapshot: Snapshot) -> None:
    made = decide(snapshot)
    fleet, rounds = snapshot, 0
    while made and rounds < 16:
        fleet = acted(fleet, made, NOW)
        made = decide(fleet)
        rounds += 1
    assert made == [], "it never comes to rest"


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_the_same_fleet_gives_the_same_decisions_and_is_left_as_it_was(snapshot: Snapshot) -> None:
    before = copy.deepcopy(snapshot)
    first = decide(snapshot)
    assert decide(snapshot) == first
    assert decide(before) == first
    assert snapshot == before


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_every_decision_says_why_and_their_number_is_bounded(snapshot: Snapshot) -> None:
    made = decide(snapshot)
    for decision in made:
        assert decision.reason
        assert decision.kind
    drains = [d.replica for d in made if isinstance(d, DrainReplica)]
    pilots = [d.pilot for d in made if isinstance(d, DrainPilot | CancelPilot)]
    assert len(drains) == len(set(drains)) and len(pilots) == len(set(pilots))
    profiles = [d.profile for d in made if isinstance(d, HoldProfile)]
    assert len(profiles) == len(set(profiles))
