"""Which residents make room: by example, and the bound on waiting in a small simulation (invariants 7 and 8)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from portal.fleet.states import ReplicaState
from scheduler.policy.decide import decide
from scheduler.policy.decisions import (
    Decision,
    DrainReplica,
    HoldPool,
    LaunchPilot,
    PlaceReplica,
    WakeReplica,
)
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PoolView, ReplicaView
from tests.unit.fleets import acted, drained
from tests.unit.test_policy_decide import GPU, LIMITS, NOW, fleet, only, pilot, pool, replica

LONE = replace(GPU, max_pilots=1)
BUSY = {"in_flight": 2, "idle_since": None}


def full_house(asking: PoolView, *others: PoolView, residents: tuple[ReplicaView, ...]) -> Snapshot:
    return fleet((asking, *others), (pilot(),), residents, profiles=(LONE,))


def resident(name: str, pool: str, *gpus: int, idle_s: float = 100, hot_s: float = 900) -> ReplicaView:
    plain = replica(name, pool=pool, gpu_indices=gpus, idle_since=NOW - idle_s)
    return replace(plain, hot_at=NOW - hot_s)


def leavers(decisions: list[Decision]) -> list[str]:
    return [d.replica for d in decisions if isinstance(d, DrainReplica)]


def test_the_one_that_was_idle_longest_goes_and_no_more_than_needed() -> None:
    there = tuple(resident(f"r{gpu}", f"m{gpu}", gpu, idle_s=40 + gpu) for gpu in range(4))
    others = tuple(pool(f"m{gpu}") for gpu in range(4))
    assert leavers(decide(full_house(pool(queued=1), *others, residents=there))) == ["r3"]
    two = full_house(pool(queued=1, gpus=2), *others, residents=there)
    assert leavers(decide(two)) == ["r3", "r2"]


def test_one_that_frees_all_is_not_joined_by_those_that_would_not_have_sufficed() -> None:
    there = (resident("small", "m0", 0, idle_s=300), resident("large", "m1", 1, 2, 3, idle_s=40))
    case = full_house(pool(queued=1, gpus=3), pool("m0"), pool("m1", gpus=3), residents=there)
    assert leavers(decide(case)) == ["large"]


def test_what_is_likely_to_be_asked_for_again_and_slow_to_reload_stays_for_a_single_request() -> None:
    there = (resident("r2", "other", 0, 1, 2, 3, idle_s=40),)
    slow = full_house(pool(queued=1), pool("other", load_s=900), residents=there)
    assert leavers(decide(slow)) == []
    many = full_house(pool(queued=9), pool("other", load_s=900), residents=there)
    assert leavers(decide(many)) == ["r2"]
    heavy = full_house(pool(queued=1, weight=9.0), pool("other", load_s=900), residents=there)
    assert leavers(decide(heavy)) == ["r2"]


def test_nothing_is_sent_away_in_a_pilot_that_ends_before_it_would_be_worth_the_load() -> None:
    there = (resident("r2", "other", 0, 1, 2, 3),)
    case = full_house(pool(queued=1, load_s=200), pool("other"), residents=there)
    for left_s, gone in ((300, []), (9_000, ["r2"])):
        ends = replace(case, pilots=(pilot(ends_at=NOW + left_s),))
        assert leavers(decide(ends)) == gone


def test_pinned_kept_ready_and_fresh_residents_stay_however_long_others_wait() -> None:
    there = resident("r2", "other", 0, 1, 2, 3)
    asking = pool(queued=50, waited_s=9_000)
    for kept in (pool("other", pinned_until=NOW + 1), pool("other", min_replicas=1)):
        made = decide(full_house(asking, kept, residents=(there,)))
        assert isinstance(only(made), HoldPool)
    fresh = replace(there, hot_at=NOW - LIMITS.min_residency_s + 1)
    assert leavers(decide(full_house(asking, pool("other"), residents=(fresh,)))) == []
    assert leavers(decide(full_house(asking, pool("other"), residents=(there,)))) == ["r2"]


def test_busy_makes_room_only_once_somebody_has_waited_for_the_bound_and_ends_what_it_has_begun() -> None:
    there = replace(resident("r2", "other", 0, 1, 2, 3), **BUSY)  # type: ignore[arg-type]
    other = pool("other", running=2)
    before = full_house(pool(queued=1, waited_s=599), other, residents=(there,))
    assert leavers(decide(before)) == []
    after = full_house(pool(queued=1, waited_s=600), other, residents=(there,))
    made = decide(after)[0]
    assert isinstance(made, DrainReplica)
    assert made.reason == (
        "llama has waited for longer than anybody should while other was served: other ends what it has begun, "
        "then makes room."
    )
    unheard = replace(there, in_flight=None)
    assert leavers(decide(replace(after, replicas=(unheard,)))) == []


def test_while_room_is_being_cleared_nobody_else_goes_and_nobody_smaller_takes_it() -> None:
    going = replace(resident("r0", "m0", 0, 1), state=ReplicaState.DRAINING, draining_at=NOW - 200)
    staying = resident("r1", "m1", 2)
    pools = (
        pool(gpus=3, queued=1, waited_s=900),
        pool("small", queued=1, waited_s=5),
        pool("m0"),
        pool("m1"),
    )
    made = decide(fleet(pools, (pilot(),), (going, staying), profiles=(LONE,)))
    assert [d for d in made if not isinstance(d, HoldPool)] == []


def test_an_idle_resident_makes_room_rather_than_that_a_job_waits_for_long_in_slurms_queue() -> None:
    there = (resident("r2", "other", 0, 1, 2, 3),)
    for wait_s, kind in ((5.0, "launch"), (1_200.0, "drain_replica")):
        second = replace(GPU, wait_p50_s=wait_s)
        case = fleet((pool(queued=1), pool("other")), (pilot(),), there, profiles=(second,))
        assert [d.kind for d in decide(case)] == [kind]


def test_it_sleeps_instead_of_stopping_where_pool_engine_and_memory_allow() -> None:
    there = replace(resident("r2", "other", 0, 1, 2, 3), can_sleep=2)
    for level, asleep_mb, expected in ((1, 5_000, 1), (0, 5_000, 0), (1, 12_500, 0)):
        other = pool("other", sleep_level=level, asleep_mem_mb=asleep_mb)
        made = decide(full_house(pool(queued=1), other, residents=(there,)))[0]
        assert isinstance(made, DrainReplica)
        assert made.sleep_level == expected
    deaf = replace(there, can_sleep=0)
    other = pool("other", sleep_level=2, asleep_mem_mb=500)
    made = decide(full_house(pool(queued=1), other, residents=(deaf,)))[0]
    assert isinstance(made, DrainReplica) and made.sleep_level == 0


def test_what_sleeps_is_woken_before_anything_is_loaded_and_makes_room_for_memory() -> None:
    asleep = replica("r1", state="asleep", gpu_indices=(), mem_mb=3_000, in_flight=None, asleep_at=NOW - 50)
    asleep = replace(asleep, home_gpus=(1,))
    made = only(decide(fleet((pool(queued=1),), (pilot(), pilot("p2")), (asleep,))))
    assert isinstance(made, WakeReplica)
    assert (made.pilot, made.replica, made.gpu_indices) == ("p1", "r1", (1,)), "its engine knows no other GPU"
    other = replace(asleep, pool="other", mem_mb=14_000)
    case = full_house(pool(queued=1), pool("other"), residents=(other,))
    made = decide(case)[0]
    assert isinstance(made, DrainReplica)
    assert (made.replica, made.sleep_level) == ("r1", 0)
    assert made.reason == "other sleeps, and llama needs the memory that it holds."


@pytest.mark.parametrize("home", [(0,), (), (0, 1)])
def test_what_sleeps_is_not_woken_where_its_own_gpus_are_taken_or_are_not_as_many_any_more(
    home: tuple[int, ...],
) -> None:
    asleep = replica("r1", state="asleep", gpu_indices=(), mem_mb=3_000, in_flight=None, asleep_at=NOW - 50)
    busy = replica("r2", pool="other", gpu_indices=(0,), in_flight=1, idle_since=None)
    here = (replace(asleep, home_gpus=home), busy)
    made = only(decide(fleet((pool(queued=1), pool("other")), (pilot(),), here)))
    assert isinstance(made, PlaceReplica)
    assert made.gpu_indices == (1,)


def test_the_one_on_the_gpu_of_a_sleeper_makes_room_for_its_wake() -> None:
    asleep = replica("r1", state="asleep", gpu_indices=(), mem_mb=1_000, in_flight=None, asleep_at=NOW - 50)
    there = tuple(resident(f"r-{gpu}", f"m{gpu}", gpu, idle_s=40 + 50 * gpu) for gpu in range(4))
    there = tuple(replace(other, mem_mb=3_000) for other in there)
    others = tuple(pool(f"m{gpu}", mem_mb=3_000) for gpu in range(4))
    case = full_house(
        pool(queued=1, mem_mb=3_000), *others, residents=(replace(asleep, home_gpus=(0,)), *there)
    )
    assert leavers(decide(case)) == ["r-0"], "r-3 was idle for longer, and its GPU is of no use"
    drained = replace(case, replicas=tuple(r for r in case.replicas if r.id != "r-0"))
    made = only(decide(drained))
    assert isinstance(made, WakeReplica) and made.gpu_indices == (0,)


def test_a_sleeper_whose_gpu_stays_taken_gives_its_memory_to_its_own_successor() -> None:
    asleep = replica("r1", state="asleep", gpu_indices=(), mem_mb=5_000, in_flight=None, asleep_at=NOW - 50)
    busy = replica("r2", pool="other", gpu_indices=(0,), **BUSY)
    asking = pool(queued=1, mem_mb=10_000)
    case = full_house(asking, pool("other"), residents=(replace(asleep, home_gpus=(0,)), busy))
    made = decide(case)[0]
    assert isinstance(made, DrainReplica)
    assert (made.replica, made.sleep_level) == ("r1", 0)
    assert "on others needs the memory" in made.reason
    placed = only(decide(replace(case, replicas=(busy,))))
    assert isinstance(placed, PlaceReplica) and placed.gpu_indices == (1,)


@dataclass
class House:
    """One GPU, models that load for 30 s, requests that take 10 s, a tick every 5 s."""

    pools: dict[str, PoolView]
    rate: dict[str, float]  # requests per tick
    fleet: Snapshot
    now: float = NOW
    queue: dict[str, list[float]] = field(default_factory=dict)  # when they came, by pool
    left_at: dict[str, float] = field(default_factory=dict)  # when the last one in flight ends, by pool
    longest_s: dict[str, float] = field(default_factory=dict)
    loads: int = 0

    def tick(self) -> None:
        self.now += 5
        for name, rate in self.rate.items():
            self.queue[name] += [self.now] * int(rate)
        self.fleet = replace(
            self.fleet,
            pools=tuple(self.asked(p) for p in self.pools.values()),
            replicas=tuple(self.moved(r) for r in self.fleet.replicas),
        )
        made = decide(replace(self.fleet, now=self.now))
        assert not any(isinstance(d, LaunchPilot) for d in made)
        self.loads += sum(isinstance(d, PlaceReplica) for d in made)
        for decision in made:
            if isinstance(decision, DrainReplica):
                leaving = next(r for r in self.fleet.replicas if r.id == decision.replica)
                assert self.now - (leaving.hot_at or 0) >= LIMITS.min_residency_s
        self.fleet = acted(self.fleet, made, self.now)
        gone = [r for r in self.fleet.replicas if r.state == "draining" and not self.busy(r.pool)]
        if gone:
            self.fleet = drained(self.fleet, self.now)

    def asked(self, pool: PoolView) -> PoolView:
        waiting = self.queue[pool.name]
        waited_s = self.now - waiting[0] if waiting else None
        return replace(pool, queued=len(waiting), waited_s=waited_s, running=int(self.busy(pool.name)))

    def busy(self, pool: str) -> bool:
        return self.left_at.get(pool, 0) > self.now

    def moved(self, replica: ReplicaView) -> ReplicaView:
        if replica.wanted_at == 0.0:
            replica = replace(replica, wanted_at=self.now)
        if replica.state == "wanted" and self.now - replica.wanted_at >= 30:
            replica = replace(
                replica, state=ReplicaState.HOT, hot_at=self.now, idle_since=self.now, in_flight=0
            )
        if replica.state != "hot":
            return replica
        waiting, self.queue[replica.pool] = self.queue[replica.pool], []
        for came in waiting:
            self.longest_s[replica.pool] = max(self.longest_s.get(replica.pool, 0.0), self.now - came)
        if waiting:
            self.left_at[replica.pool] = self.now + 10
        busy = self.busy(replica.pool)
        idle_since = None if busy else replica.idle_since or self.now
        return replace(replica, in_flight=2 if busy else 0, idle_since=idle_since)


def house(**rates: float) -> House:
    pools = {name: pool(name, profiles=("gpu",)) for name in rates}
    lone = pilot(gpus=1)
    first = ReplicaView("r0", "a", "p1", ReplicaState.HOT, (0,), 4_000, 2, wanted_at=1.0, hot_at=NOW - 9_000)
    made = fleet(tuple(pools.values()), (lone,), (first,), profiles=(replace(LONE, gpus=1),))
    return House(pools, rates, made, queue={name: [] for name in rates})


def test_one_request_beside_a_steady_stream_is_served_within_the_bound_and_the_stream_goes_on() -> None:
    world = house(a=1, b=0)
    world.queue["b"] = [NOW]
    for _ in range(400):
        world.tick()
    # Bound + drain of what was in flight + load, and a tick for each of the four steps.
    assert world.longest_s["b"] <= LIMITS.wait_bound_s + 10 + 30 + 4 * 5
    assert world.longest_s["a"] <= LIMITS.min_residency_s + LIMITS.switch_after_s + 10 + 30 + 6 * 5
    assert world.loads == 2, "b came in once, and a came back once"


def test_two_steady_streams_take_turns_that_are_long_against_what_changing_over_costs() -> None:
    world = house(a=1, b=1)
    for _ in range(1_440):
        world.tick()
    assert max(world.longest_s.values()) <= LIMITS.wait_bound_s + 10 + 30 + 4 * 5
    assert 2 <= world.loads <= 7_200 / LIMITS.wait_bound_s


def test_three_steady_streams_all_get_their_turn() -> None:
    world = house(a=1, b=1, c=1)
    for _ in range(2_000):
        world.tick()
    turn_s = LIMITS.wait_bound_s + 10 + 30 + 4 * 5
    assert set(world.longest_s) == {"a", "b", "c"}
    assert max(world.longest_s.values()) <= 2 * turn_s
