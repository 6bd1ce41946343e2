"""No way leads to GPUs that an environment does not run on: not a new job, not one of before, not one to come.

The jobs here were started when their profile had other GPUs, as after a change in the catalog: of the profile's name
alone a pool could not tell.
"""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings

from portal.fleet.states import PilotState, ReplicaState
from scheduler.policy import handover
from scheduler.policy.decide import decide
from scheduler.policy.decisions import (
    Decision,
    DrainPilot,
    DrainReplica,
    LaunchPilot,
    PlaceReplica,
    StageWeights,
    WakeReplica,
)
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.trial import trial
from tests.unit.fleets import snapshots
from tests.unit.test_policy_decide import GPU, NOW, fleet, only, pilot, pool, replica

NEW = replace(GPU, gpu_type="a100")
FULL = replace(NEW, max_pilots=1)
OLD_GPUS = pilot(gpu_type="v100")
ASKING = pool(queued=1, gpu_types=("a100",))


def started(decisions: list[Decision]) -> list[str]:
    return [d.kind for d in decisions if isinstance(d, LaunchPilot | PlaceReplica | WakeReplica)]


def test_a_job_of_before_with_other_gpus_is_not_entered_though_it_has_room() -> None:
    case = fleet((ASKING,), (OLD_GPUS,), profiles=(NEW,))
    assert started(decide(case)) == ["launch"]
    assert started(decide(replace(case, pilots=(pilot(gpu_type="a100"),)))) == ["place"]


def test_what_sleeps_on_other_gpus_is_not_woken() -> None:
    asleep = replica(state=ReplicaState.ASLEEP, gpu_indices=(), home_gpus=(0,), asleep_at=NOW - 50)
    case = fleet((ASKING,), (OLD_GPUS,), (asleep,), profiles=(NEW,))
    assert started(decide(case)) == ["launch"]
    assert started(decide(replace(case, pilots=(pilot(gpu_type="a100"),)))) == ["wake_replica"]


def test_room_that_is_being_cleared_on_other_gpus_is_not_waited_for() -> None:
    going = replica(
        "r2", pool="other", state=ReplicaState.DRAINING, gpu_indices=(0, 1, 2, 3), draining_at=NOW - 5
    )
    case = fleet((ASKING, pool("other")), (OLD_GPUS,), (going,), profiles=(NEW,))
    assert started(decide(case)) == ["launch"]
    assert started(decide(replace(case, pilots=(pilot(gpu_type="a100"),)))) == []


def test_room_in_a_job_that_is_launched_for_another_pool_counts_on_the_right_gpus_only() -> None:
    old = replace(GPU, name="old", gpu_type="v100")
    first = pool("first", queued=1, waited_s=60.0, profiles=("old",))
    second = replace(ASKING, profiles=("gpu", "old"))
    assert started(decide(fleet((first, second), profiles=(NEW, old)))) == ["launch", "launch"]
    assert started(decide(fleet((first, replace(second, gpu_types=())), profiles=(NEW, old)))) == ["launch"]


def test_nobody_makes_room_on_other_gpus() -> None:
    idle = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), idle_since=NOW - 300, hot_at=NOW - 900)
    case = fleet((ASKING, pool("other")), (OLD_GPUS,), (idle,), profiles=(FULL,))
    assert not any(isinstance(d, DrainReplica) for d in decide(case))
    right = replace(case, pilots=(pilot(gpu_type="a100"),))
    assert any(isinstance(d, DrainReplica) for d in decide(right))


def test_weights_are_not_staged_beside_other_gpus() -> None:
    busy = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), in_flight=1, idle_since=None)
    case = fleet((ASKING, pool("other")), (replace(OLD_GPUS, scratch=True),), (busy,), profiles=(FULL,))
    assert not any(isinstance(d, StageWeights) for d in decide(case))
    right = replace(case, pilots=(pilot(gpu_type="a100", scratch=True),))
    assert any(isinstance(d, StageWeights) for d in decide(right))


def test_an_idle_job_with_other_gpus_gives_its_place_to_the_successor() -> None:
    two = replace(NEW, max_pilots=2)
    ends = pilot("busy", gpu_type="a100", ends_at=NOW + 200)
    lazy = replace(OLD_GPUS, id="lazy", ends_at=NOW + 9_000)
    serving = replica("r1", pilot="busy", in_flight=1, idle_since=None, hot_at=NOW - 3_000)
    case = fleet((pool(running=1, gpu_types=("a100",)),), (ends, lazy), (serving,), profiles=(two,))
    made = list(handover.drains(case, {"llama": 1}))
    assert [d.pilot for d in made if isinstance(d, DrainPilot)] == ["lazy"]
    right = replace(case, pilots=(ends, replace(lazy, gpu_type="a100")))
    assert list(handover.drains(right, {"llama": 1})) == [], "the successor goes there"


def test_a_trial_goes_to_the_right_gpus_or_says_which_those_are() -> None:
    old = replace(GPU, gpu_type="v100")
    assert trial("llama", fleet((replace(ASKING, queued=0),), (OLD_GPUS,), profiles=(old,))) == (
        None,
        "Its environment runs on GPUs of type a100, and gpu have others.",
    )
    start, _ = trial("llama", fleet((replace(ASKING, queued=0),), (OLD_GPUS,), profiles=(NEW,)))
    assert isinstance(start, LaunchPilot)


def test_a_replica_that_serves_on_other_gpus_goes_on() -> None:
    serving = replica(in_flight=1, idle_since=None, hot_at=NOW - 900)
    case = fleet((replace(ASKING, queued=0),), (OLD_GPUS,), (serving,), profiles=(NEW,))
    assert decide(case) == []
    waiting = replace(case, pilots=(replace(OLD_GPUS, state=PilotState.UP, ends_at=NOW + 60),))
    assert isinstance(only(decide(waiting)), LaunchPilot), "its successor finds the right ones"


@settings(max_examples=300, deadline=None)
@given(snapshots())
def test_nothing_is_started_or_staged_on_gpus_on_which_it_does_not_run_or_fit(snapshot: Snapshot) -> None:
    for decision in decide(snapshot):
        if isinstance(decision, LaunchPilot):
            gpu_type = snapshot.profiles_by_name[decision.profile].gpu_type
        elif isinstance(decision, PlaceReplica | WakeReplica | StageWeights):
            gpu_type = snapshot.pilots_by_id[decision.pilot].gpu_type
        else:
            continue
        assert snapshot.pools_by_name[decision.pool].fits_on(gpu_type), decision
