"""How many replicas: backlog against the time that another takes to come, forecast, lull, pins, sleep."""

from __future__ import annotations

from dataclasses import replace

from portal.fleet.states import ReplicaState
from scheduler.policy.autoscale import target
from scheduler.policy.decide import decide
from scheduler.policy.decisions import DrainPilot, DrainReplica, LaunchPilot, PlaceReplica
from scheduler.policy.views import PoolView, ReplicaView
from tests.unit.test_policy_decide import NOW, fleet, only, pilot, pool, replica

HOT = replica(in_flight=32, idle_since=None, hot_at=NOW - 900)
IDLE = replica(in_flight=0, idle_since=NOW - 121, hot_at=NOW - 900)


def wanted(asking: PoolView, *replicas: ReplicaView, ready_s: float | None = 60.0) -> int:
    return target(asking, fleet((asking,), (pilot(),), replicas), ready_s=ready_s).wanted


def test_another_replica_comes_when_the_present_ones_need_longer_than_it_takes_to_come() -> None:
    # 32 at a time, 2 s each: 960 take 60 s, and what runs another second.
    busy = pool(running=32, service_s=2.0, max_replicas=4)
    assert wanted(replace(busy, queued=940), HOT) == 1
    assert wanted(replace(busy, queued=950), HOT) == 2
    assert wanted(replace(busy, queued=2_000), HOT) == 3
    assert wanted(replace(busy, queued=90_000), HOT) == 4
    assert wanted(replace(busy, queued=2_000), HOT, ready_s=600.0) == 1
    assert wanted(replace(busy, queued=90_000, service_s=None), HOT) == 1
    assert wanted(replace(busy, queued=90_000, max_replicas=1), HOT) == 1


def test_lines_of_batches_count_for_less_but_count() -> None:
    busy = pool(running=32, service_s=2.0, max_replicas=4)
    assert wanted(replace(busy, queued=2_000, queued_batch=2_000), HOT) == 1
    assert wanted(replace(busy, queued=8_000, queued_batch=8_000), HOT) == 3


def test_those_that_are_coming_are_counted_so_that_a_backlog_is_not_answered_twice() -> None:
    busy = pool(queued=900, running=32, service_s=2.0, max_replicas=4)
    coming = replica("r2", state="starting", gpu_indices=(1,), in_flight=None, idle_since=None)
    assert isinstance(only(decide(fleet((busy,), (pilot(),), (HOT,)))), PlaceReplica)
    assert decide(fleet((busy,), (pilot(),), (HOT, coming))) == []


def test_a_replica_in_use_is_renewed_and_one_past_its_keep_alive_is_not() -> None:
    ending = pilot(ends_at=NOW + 100)
    used = replace(IDLE, idle_since=NOW - 599)
    for resident, again in ((HOT, True), (used, True), (replace(IDLE, idle_since=NOW - 601), False)):
        made = decide(fleet((pool(),), (ending,), (resident,)))
        assert any(isinstance(d, LaunchPilot) for d in made) is again


def test_what_runs_out_on_a_draining_replica_wants_no_new_one() -> None:
    going = replace(HOT, state=ReplicaState.DRAINING, draining_at=NOW)
    assert decide(fleet((pool(running=5),), (pilot(),), (going,))) == []


def test_a_replica_whose_agent_is_silent_does_not_serve_and_is_left_alone() -> None:
    silent = replace(HOT, in_flight=None)
    pilots = (pilot(alive=False), pilot("p2"))
    made = only(decide(fleet((pool(queued=1, running=3),), pilots, (silent,))))
    assert isinstance(made, PlaceReplica) and made.pilot == "p2"


def test_above_need_one_goes_after_a_lull_and_the_last_after_its_keep_alive() -> None:
    second = replace(IDLE, id="r2", pilot="p2")
    pools, pilots = (pool(max_replicas=3),), (pilot(), pilot("p2"))
    made = only(decide(fleet(pools, pilots, (IDLE, second))))
    assert isinstance(made, DrainReplica)
    assert made.reason == "llama has more replicas than its work needs; this one has been idle for 121 s."
    fresh = tuple(replace(r, idle_since=NOW - 119) for r in (IDLE, second))
    assert decide(fleet(pools, pilots, fresh)) == []
    # 40 at work need two replicas of 32.
    three = (replace(HOT, in_flight=40, gpu_indices=(2,), id="r3"), IDLE, second)
    assert len(decide(fleet(pools, pilots, three))) == 1


def test_of_several_the_one_in_the_emptiest_pilot_goes() -> None:
    second = replace(IDLE, id="r2", pilot="p2", idle_since=NOW - 130)
    neighbour = replica("r3", pool="other", pilot="p2", gpu_indices=(1,), in_flight=1, idle_since=None)
    case = fleet((pool(max_replicas=2), pool("other")), (pilot(), pilot("p2")), (IDLE, second, neighbour))
    made = only(decide(case))
    assert isinstance(made, DrainReplica) and made.replica == "r1"


def test_a_pin_starts_a_model_and_keeps_it() -> None:
    pinned = pool(pinned_until=NOW + 1)
    assert isinstance(only(decide(fleet((pinned,)))), LaunchPilot)
    old = replace(IDLE, idle_since=NOW - 9_999)
    assert decide(fleet((pinned,), (pilot(),), (old,))) == []
    assert isinstance(only(decide(fleet((pool(pinned_until=NOW),), (pilot(),), (old,)))), DrainReplica)


def test_an_idle_model_sleeps_rather_than_stops_and_a_pilot_of_sleepers_is_let_go() -> None:
    sleepy = pool(sleep_level=1, asleep_mem_mb=6_000)
    old = replace(IDLE, idle_since=NOW - 601, can_sleep=2)
    made = only(decide(fleet((sleepy,), (pilot(),), (old,))))
    assert isinstance(made, DrainReplica) and made.sleep_level == 1
    tight = pilot(mem_mb=5_000)
    made = only(decide(fleet((sleepy,), (tight,), (old,))))
    assert isinstance(made, DrainReplica) and made.sleep_level == 0
    asleep = replace(old, state=ReplicaState.ASLEEP, gpu_indices=(), in_flight=0, idle_since=None)
    for slept_s, kinds in ((59, []), (61, [DrainPilot])):
        there = replace(asleep, asleep_at=NOW - slept_s)
        assert [type(d) for d in decide(fleet((sleepy,), (pilot(),), (there,)))] == kinds
