"""The policies together, by example. As properties over arbitrary fleets: test_policy_properties.py."""

from __future__ import annotations

from dataclasses import replace

from portal.fleet.states import PilotState, ReplicaState
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
)
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import Failure, HoldView, Limits, PilotView, PoolView, ProfileView, ReplicaView

NOW = 1_000_000.0
LIMITS = Limits(pilot_idle_s=60, launch_backoff_s=5, latch_after=3)
GPU = ProfileView("gpu", enabled=True, gpus=4, mem_mb=16_000, max_pilots=2)


def pool(name: str = "llama", **changes: object) -> PoolView:
    plain = PoolView(name, ("gpu",), gpus=1, mem_mb=4_000, keep_alive_s=600, load_s=30)
    return replace(plain, **changes)  # type: ignore[arg-type]


def pilot(name: str = "p1", **changes: object) -> PilotView:
    return replace(PilotView(name, "gpu", "up", gpus=4, mem_mb=16_000, alive=True), **changes)  # type: ignore[arg-type]


def replica(name: str = "r1", **changes: object) -> ReplicaView:
    plain = ReplicaView(name, "llama", "p1", ReplicaState.HOT, (0,), 4_000, in_flight=0, idle_since=NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]


def fleet(
    pools: tuple[PoolView, ...],
    pilots: tuple[PilotView, ...] = (),
    replicas: tuple[ReplicaView, ...] = (),
    **changes: object,
) -> Snapshot:
    plain = Snapshot(pools, pilots, replicas, (GPU,), LIMITS, NOW)
    return replace(plain, **changes)  # type: ignore[arg-type]


def only(decisions: list[Decision]) -> Decision:
    assert len(decisions) == 1, decisions
    return decisions[0]


def test_work_for_a_cold_model_launches_one_job_that_says_why() -> None:
    made = only(decide(fleet((pool(queued=3),))))
    assert isinstance(made, LaunchPilot)
    assert (made.pool, made.profile, made.gpu_indices) == ("llama", "gpu", (0,))
    assert made.reason == "3 requests waiting for llama, and no job of ours has room: a new one is submitted."
    assert made.inputs == {"queued": 3, "running": 0, "serving": 0, "wanted": 1}


def test_nothing_is_launched_without_work() -> None:
    assert decide(fleet((pool(),))) == []


def test_nothing_is_launched_while_a_replica_is_on_its_way() -> None:
    for state in ("wanted", "starting", "hot"):
        coming = replica(state=state)
        assert decide(fleet((pool(queued=9),), (pilot(),), (coming,))) == []


def test_an_up_pilot_with_room_is_preferred_to_a_new_job_and_the_fullest_one_wins() -> None:
    other = replica("r2", pool="other", pilot="p2", gpu_indices=(0, 2), idle_since=None, in_flight=1)
    made = only(decide(fleet((pool(queued=1), pool("other")), (pilot(), pilot("p2")), (other,))))
    assert isinstance(made, PlaceReplica)
    assert (made.pilot, made.gpu_indices) == ("p2", (1,))


def test_a_pilot_without_enough_memory_gpus_time_or_life_is_no_room() -> None:
    full = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), in_flight=1, idle_since=None)
    fat = replica("r2", pool="other", mem_mb=13_000, in_flight=1, idle_since=None)
    cases = [
        fleet((pool(queued=1), pool("other")), (pilot(),), (full,)),
        fleet((pool(queued=1), pool("other")), (pilot(),), (fat,)),
        fleet((pool(queued=1),), (pilot(ends_at=NOW + 50),)),
        fleet((pool(queued=1),), (pilot(alive=False),)),
        fleet((pool(queued=1),), (pilot(leaves=True),)),
        fleet((pool(queued=1),), (pilot(state="draining"),)),
    ]
    for case in cases:
        assert isinstance(only(decide(case)), LaunchPilot)


def test_a_second_model_joins_a_job_that_is_still_pending() -> None:
    first = replica(state="wanted", in_flight=None, idle_since=None)
    case = fleet((pool(), pool("other", queued=1)), (pilot(state="pending", alive=False),), (first,))
    made = only(decide(case))
    assert isinstance(made, PlaceReplica)
    assert made.gpu_indices == (1,)


def test_two_pools_that_start_in_one_tick_do_not_take_the_same_gpu_nor_too_many_jobs() -> None:
    both = decide(fleet((pool("a", queued=1), pool("b", queued=1)), (pilot(),)))
    assert [d.gpu_indices for d in both if isinstance(d, PlaceReplica)] == [(0,), (1,)]
    three = decide(fleet(tuple(pool(name, queued=1, gpus=4) for name in "abc")))
    assert [d.kind for d in three] == ["launch", "launch", "hold"]
    assert isinstance(three[2], HoldPool)
    assert three[2].reason == "All jobs allowed by gpu are in use; it waits for room."


def test_room_that_is_being_cleared_is_waited_for_but_not_for_ever() -> None:
    going = replica("r2", pool="other", state="draining", gpu_indices=(0, 1, 2, 3), draining_at=NOW - 1)
    pools = (pool(queued=1), pool("other"))
    assert decide(fleet(pools, (pilot(),), (going,))) == []
    made = only(decide(replace(fleet(pools, (pilot(),), (going,)), now=NOW + 40)))
    assert isinstance(made, LaunchPilot)


def test_a_replica_past_its_keep_alive_drains_and_a_busy_or_unheard_one_does_not() -> None:
    made = only(decide(fleet((pool(),), (pilot(),), (replica(idle_since=NOW - 601),))))
    assert isinstance(made, DrainReplica)
    assert made.reason == "Nobody has used llama for 601 s; its keep-alive is 600 s."
    for kept in (
        replica(idle_since=NOW - 599),
        replica(idle_since=None, in_flight=1),
        replica(idle_since=None, in_flight=None),
    ):
        assert decide(fleet((pool(),), (pilot(),), (kept,))) == []
    old = replica(idle_since=NOW - 601)
    assert decide(fleet((pool(interest_until=NOW + 1),), (pilot(),), (old,))) == []
    assert decide(fleet((pool(min_replicas=1),), (pilot(),), (old,))) == []


def test_an_empty_pilot_is_let_go_unless_it_is_about_to_be_used() -> None:
    empty = pilot(empty_since=NOW - 61)
    assert isinstance(only(decide(fleet((pool(),), (empty,)))), DrainPilot)
    assert decide(fleet((pool(),), (pilot(empty_since=NOW - 59),))) == []
    assert isinstance(only(decide(fleet((pool(queued=1),), (empty,)))), PlaceReplica)
    withdrawn = only(decide(fleet((pool(),), (replace(empty, state=PilotState.PENDING),))))
    assert isinstance(withdrawn, CancelPilot)
    assert not withdrawn.failed


def test_an_idle_resident_makes_room_when_every_job_is_in_use() -> None:
    lone = replace(GPU, max_pilots=1)
    resident = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), idle_since=NOW - 31)
    case = fleet((pool(queued=1), pool("other")), (pilot(),), (resident,), profiles=(lone,))
    first = decide(case)[0]
    assert isinstance(first, DrainReplica)
    assert first.reason == "other is idle, and llama has work and nowhere else to run."
    for busy in (replace(resident, in_flight=1, idle_since=None), replace(resident, idle_since=NOW - 29)):
        kinds = [d.kind for d in decide(replace(case, replicas=(busy,)))]
        assert kinds == ["hold"]
    wanted = replace(case, pools=(pool(queued=1), pool("other", queued=1)))
    assert [d.kind for d in decide(wanted)] == ["hold"]


def test_failures_are_waited_out_longer_each_time_and_latch_after_three() -> None:
    once = pool(queued=1, failures=(Failure(NOW, "out of memory"),))
    made = only(decide(replace(fleet((once,)), now=NOW + 1)))
    assert isinstance(made, HoldPool)
    assert made.hold == HoldView(1, NOW + 5, False, "Starting it failed: out of memory")
    held = replace(once, hold=made.hold)
    assert decide(replace(fleet((held,)), now=NOW + 4.9)) == []
    assert isinstance(only(decide(replace(fleet((held,)), now=NOW + 5))), LaunchPilot)
    twice = pool(queued=1, failures=(Failure(NOW - 9, "x"), Failure(NOW, "y")))
    assert not any(isinstance(d, LaunchPilot) for d in decide(replace(fleet((twice,)), now=NOW + 9.9)))
    thrice = pool(queued=1, failures=(Failure(NOW, "x"),) * 2 + (Failure(NOW, "no such file"),))
    latch = only(decide(replace(fleet((thrice,)), now=NOW + 1e6)))
    assert isinstance(latch, HoldPool)
    assert latch.hold.latched
    assert latch.reason == "Starting it failed 3 times in a row; the last time because: no such file"
    # It stays latched whatever is forgotten of the past, until a person clears it.
    assert decide(replace(fleet((pool(queued=1, hold=latch.hold),)), now=NOW + 1e6)) == []
    assert isinstance(decide(replace(fleet((pool(queued=1),)), now=NOW + 1e6))[0], LaunchPilot)


def test_a_job_that_can_never_start_is_withdrawn_and_its_pool_latched_at_once() -> None:
    stuck = pilot(
        state="pending", alive=False, hopeless="no node can ever fit what it asks for (BadConstraints)"
    )
    waiting = replica(state="wanted", in_flight=None, idle_since=None)
    cancel, shut, hold = decide(fleet((pool(queued=1),), (stuck,), (waiting,)))
    assert isinstance(cancel, CancelPilot)
    assert cancel.failed
    assert isinstance(shut, HoldProfile)
    assert (shut.profile, "BadConstraints" in shut.reason) == ("gpu", True)
    assert isinstance(hold, HoldPool)
    assert hold.hold.latched
    assert "BadConstraints" in hold.hold.reason


def test_a_pause_of_fleet_or_pool_launches_nothing_and_says_so() -> None:
    for case in (fleet((pool(queued=1),), paused=frozenset({"gpu"})), fleet((pool(queued=1, paused=True),))):
        made = only(decide(case))
        assert isinstance(made, HoldPool)
        assert "paused" in made.reason


def test_when_slurm_is_silent_nothing_is_launched_or_killed_and_the_waiting_are_told() -> None:
    case = fleet(
        (pool(queued=1), pool("other")),
        (pilot(empty_since=NOW - 999, state="draining"), pilot("p2", state="pending", hopeless="held")),
        silent={
            "gpu": "Slurm does not answer; nothing is started until it does. squeue: no answer within 20 s"
        },
    )
    made = only(decide(case))
    assert isinstance(made, HoldPool)
    assert (
        made.reason
        == "Slurm does not answer; nothing is started until it does. squeue: no answer within 20 s"
    )
