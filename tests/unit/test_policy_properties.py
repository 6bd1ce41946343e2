"""The policies together, as properties over arbitrary fleets (invariants 1, 7 and 11)."""

from __future__ import annotations

from dataclasses import replace
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from scheduler.policy.decide import decide
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainPilot,
    DrainReplica,
    HoldPool,
    LaunchPilot,
    PlaceReplica,
)
from scheduler.policy.snapshot import (
    Failure,
    HoldView,
    Limits,
    PilotView,
    PoolView,
    ProfileView,
    ReplicaView,
    Snapshot,
)

NOW = 1_000_000.0
LIMITS = Limits(pilot_idle_s=60, launch_backoff_s=5, latch_after=3)

names = st.sampled_from(["a", "b", "c"])
moments = st.floats(NOW - 2000, NOW + 2000)
maybe = st.none() | moments


@st.composite
def snapshots(draw: st.DrawFn) -> Snapshot:
    pools = tuple(
        PoolView(
            name,
            profiles=tuple(draw(st.sets(st.sampled_from(["gpu", "spare"])))),
            gpus=draw(st.integers(1, 4)),
            mem_mb=draw(st.sampled_from([1_000, 8_000, 20_000])),
            keep_alive_s=draw(st.sampled_from([0.0, 10.0, 600.0])),
            load_s=10,
            min_replicas=(low := draw(st.integers(0, 1))),
            max_replicas=draw(st.integers(max(1, low), 3)),
            queued=draw(st.integers(0, 3)),
            running=draw(st.integers(0, 2)),
            interest_until=draw(maybe),
            paused=draw(st.booleans()),
            failures=tuple(Failure(draw(moments), "x") for _ in range(draw(st.integers(0, 4)))),
            hold=draw(st.sampled_from([HoldView(), HoldView(3, None, True, "latched")])),
        )
        for name in draw(st.sets(names))
    )
    profiles = tuple(
        ProfileView(name, draw(st.booleans()), draw(st.integers(1, 4)), 16_000, draw(st.integers(0, 3)))
        for name in ("gpu", "spare")
    )
    states = st.sampled_from(["planned", "submitted", "pending", "up", "draining"])
    pilots, replicas, ids = [], [], count()
    for number in range(draw(st.integers(0, 3))):
        gpus = draw(st.integers(1, 4))
        state = draw(states)
        free = list(range(gpus))
        hosted = 0
        for name in sorted(draw(st.sets(st.sampled_from([p.name for p in pools])))) if pools else []:
            need = next(p.gpus for p in pools if p.name == name)
            if need > len(free):
                continue
            hosted += 1
            busy = draw(st.sampled_from([None, 0, 2]))
            replicas.append(
                ReplicaView(
                    f"r{next(ids)}",
                    name,
                    f"p{number}",
                    draw(st.sampled_from(["wanted", "starting", "hot", "draining"])),
                    tuple(free[:need]),
                    1_000,
                    in_flight=busy,
                    idle_since=draw(moments) if busy == 0 else None,
                    draining_at=draw(maybe),
                )
            )
            free = free[need:]
        pilots.append(
            PilotView(
                f"p{number}",
                draw(st.sampled_from(["gpu", "spare"])),
                state,
                gpus,
                16_000,
                alive=draw(st.booleans()),
                ends_at=draw(maybe),
                empty_since=None if hosted else draw(moments),
                hopeless=draw(st.sampled_from(["", "held"])) if state == "pending" else "",
            )
        )
    return Snapshot(
        pools,
        tuple(pilots),
        tuple(replicas),
        profiles,
        LIMITS,
        slurm_fresh=draw(st.booleans()),
        paused=draw(st.booleans()),
    )


serial = count()


def acted(snapshot: Snapshot, decisions: list[Decision], now: float) -> Snapshot:
    """The fleet after the decisions were carried out and nothing else happened."""
    pilots = {p.id: p for p in snapshot.pilots}
    replicas = {r.id: r for r in snapshot.replicas}
    pools = {p.name: p for p in snapshot.pools}
    profiles = {p.name: p for p in snapshot.profiles}
    for decision in decisions:
        number = next(serial)
        if isinstance(decision, LaunchPilot):
            asked = profiles[decision.profile]
            new = PilotView(f"new{number}", asked.name, "submitted", asked.gpus, asked.mem_mb, alive=False)
            pilots[new.id] = new
        if isinstance(decision, LaunchPilot | PlaceReplica):
            where = decision.pilot if isinstance(decision, PlaceReplica) else f"new{number}"
            mem_mb = pools[decision.pool].mem_mb
            made = ReplicaView(f"n{number}", decision.pool, where, "wanted", decision.gpu_indices, mem_mb)
            replicas[made.id] = made
            pilots[where] = replace(pilots[where], empty_since=None)
        elif isinstance(decision, DrainReplica) and (leaving := replicas.get(decision.replica)):
            replicas[leaving.id] = replace(leaving, state="draining", draining_at=now)
        elif isinstance(decision, DrainPilot):
            pilots[decision.pilot] = replace(pilots[decision.pilot], state="draining")
        elif isinstance(decision, CancelPilot):
            del pilots[decision.pilot]
            replicas = {k: r for k, r in replicas.items() if r.pilot != decision.pilot}
        elif isinstance(decision, HoldPool):
            pools[decision.pool] = replace(pools[decision.pool], hold=decision.hold)
    return replace(
        snapshot,
        pools=tuple(pools.values()),
        pilots=tuple(pilots.values()),
        replicas=tuple(replicas.values()),
    )


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_never_a_launch_for_a_pool_that_is_served_or_coming_and_never_two(snapshot: Snapshot) -> None:
    started = [d.pool for d in decide(snapshot, NOW) if isinstance(d, LaunchPilot | PlaceReplica)]
    assert len(started) == len(set(started))
    for name in started:
        asking = next(p for p in snapshot.pools if p.name == name)
        serving = [r for r in snapshot.by_pool[name] if r.state in ("wanted", "starting", "hot")]
        assert len(serving) < max(1, asking.min_replicas)
        assert not (snapshot.paused or asking.paused or asking.hold.latched or len(asking.failures) >= 3)


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_only_what_was_heard_to_be_idle_is_drained_or_let_go(snapshot: Snapshot) -> None:
    replicas = {r.id: r for r in snapshot.replicas}
    for decision in decide(snapshot, NOW):
        if isinstance(decision, DrainReplica):
            assert replicas[decision.replica].in_flight == 0
            assert replicas[decision.replica].state == "hot"
        if isinstance(decision, DrainPilot):
            assert snapshot.by_pilot[decision.pilot] == ()


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_no_answer_launches_and_kills_nothing(snapshot: Snapshot) -> None:
    for decision in decide(replace(snapshot, slurm_fresh=False), NOW):
        assert isinstance(decision, PlaceReplica | HoldPool | DrainReplica)
        if isinstance(decision, DrainReplica):
            raise AssertionError("drained while Slurm was silent")


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_without_queued_work_interest_or_a_floor_nothing_starts(snapshot: Snapshot) -> None:
    """Parked requests reach the policies as nothing at all, whatever else is true of the pool."""
    quiet = tuple(replace(p, queued=0, interest_until=None, min_replicas=0) for p in snapshot.pools)
    made = decide(replace(snapshot, pools=quiet), NOW)
    assert not [d for d in made if isinstance(d, LaunchPilot | PlaceReplica)]


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_deciding_again_after_acting_starts_nothing_more_for_a_pool_and_comes_to_rest(
    snapshot: Snapshot,
) -> None:
    first = decide(snapshot, NOW)
    after = acted(snapshot, first, NOW)
    second = decide(after, NOW)
    settled = {d.pool for d in first if isinstance(d, LaunchPilot | PlaceReplica)}
    for decision in second:
        if isinstance(decision, LaunchPilot | PlaceReplica):
            assert decision.pool not in settled
    rounds = 0
    while second and rounds < 12:
        after = acted(after, second, NOW)
        second = decide(after, NOW)
        rounds += 1
    assert second == [], "it never comes to rest"


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_decisions_are_bounded_by_what_exists_and_claim_no_gpu_twice(snapshot: Snapshot) -> None:
    made = decide(snapshot, NOW)
    assert len(made) <= 3 * len(snapshot.pools) + 2 * len(snapshot.pilots) + len(snapshot.replicas)
    claims: set[tuple[str, int]] = {(r.pilot, gpu) for r in snapshot.replicas for gpu in r.gpu_indices}
    for decision in made:
        if isinstance(decision, PlaceReplica):
            for gpu in decision.gpu_indices:
                assert (decision.pilot, gpu) not in claims
                claims.add((decision.pilot, gpu))
    for profile in snapshot.profiles:
        live = sum(p.profile == profile.name for p in snapshot.pilots)
        launched = sum(isinstance(d, LaunchPilot) and d.profile == profile.name for d in made)
        assert launched == 0 or live + launched <= profile.max_pilots


@settings(max_examples=100, deadline=None)
@given(snapshots())
def test_every_decision_says_why(snapshot: Snapshot) -> None:
    for decision in decide(snapshot, NOW):
        assert decision.reason
        assert decision.kind
