"""Pools and profiles without GPUs, preemptible jobs among others, and environments made for some types of GPU."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policy.decide import decide
from scheduler.policy.decisions import DrainReplica, LaunchPilot, PlaceReplica, WakeReplica
from scheduler.policy.views import Limits
from tests.unit.test_policy_decide import GPU, NOW, fleet, only, pilot, pool, replica
from tests.unit.test_policy_placement import launched, told

CPU = replace(GPU, name="cpu", gpus=0, mem_mb=8_000)
ON_CPU = pool(queued=1, gpus=0, profiles=("cpu",))
CPU_PILOT = pilot(profile="cpu", gpus=0, mem_mb=8_000)


def test_a_model_without_gpus_gets_a_job_without_gpus() -> None:
    made = only(decide(fleet((ON_CPU,), profiles=(CPU,))))
    assert isinstance(made, LaunchPilot)
    assert (made.profile, made.gpu_indices) == ("cpu", ())


def test_it_joins_a_job_that_has_memory_and_needs_none_that_has_not() -> None:
    made = only(decide(fleet((ON_CPU,), (CPU_PILOT,), profiles=(CPU,))))
    assert isinstance(made, PlaceReplica)
    assert (made.pilot, made.gpu_indices) == ("p1", ())
    full = replica("r2", pool="other", gpu_indices=(), mem_mb=6_000, in_flight=1, idle_since=None)
    both = (ON_CPU, pool("other", gpus=0, profiles=("cpu",)))
    assert launched(decide(fleet(both, (CPU_PILOT,), (full,), profiles=(CPU,)))) == "cpu"


def test_it_may_use_the_memory_of_a_job_whose_gpus_are_all_taken() -> None:
    busy = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), in_flight=1, idle_since=None)
    either = replace(ON_CPU, profiles=("cpu", "gpu"))
    made = only(decide(fleet((either, pool("other")), (pilot(),), (busy,), profiles=(CPU, GPU))))
    assert isinstance(made, PlaceReplica)
    assert made.gpu_indices == ()


def test_a_model_with_gpus_never_runs_in_a_job_without() -> None:
    asking = pool(queued=1, profiles=("cpu",))
    reason = told(decide(fleet((asking,), (CPU_PILOT,), profiles=(CPU,))))
    assert reason == "No enabled profile has 1 GPUs and 4000 MiB for it."


def test_caps_on_gpus_hold_back_no_job_without_gpus() -> None:
    limits = Limits(60, 5, 3, max_gpus=2, project_gpus={"physics": 1})
    over = pilot("p9", state="draining")  # four GPUs: the caps were lowered
    asking = replace(ON_CPU, project="physics")
    used = replica("r9", pool="other", pilot="p9", gpu_indices=(0, 1), in_flight=1, idle_since=None)
    pools = (asking, pool("other", project="physics"))
    found = fleet(pools, (over,), (used,), profiles=(CPU, GPU), limits=limits)
    made = [d for d in decide(found) if isinstance(d, LaunchPilot)]
    assert [d.profile for d in made] == ["cpu"]
    placed = fleet(pools, (over, CPU_PILOT), (used,), profiles=(CPU, GPU), limits=limits)
    assert [d.pilot for d in decide(placed) if isinstance(d, PlaceReplica)] == ["p1"]


def test_of_equal_waits_a_job_without_gpus_costs_like_one_gpu_and_not_nothing() -> None:
    one = replace(GPU, name="one", gpus=1, cost=0.5)
    either = replace(ON_CPU, profiles=("cpu", "one"))
    assert launched(decide(fleet((either,), profiles=(CPU, one)))) == "one"


def test_one_that_sleeps_without_gpus_is_woken() -> None:
    asleep = replica(
        state="asleep", gpu_indices=(), home_gpus=(), mem_mb=1_000, asleep_at=NOW, idle_since=None
    )
    made = only(decide(fleet((ON_CPU,), (CPU_PILOT,), (asleep,), profiles=(CPU,))))
    assert isinstance(made, WakeReplica)
    assert made.gpu_indices == ()


def test_an_idle_resident_makes_room_in_memory() -> None:
    full = replace(CPU, max_pilots=1)
    resident = replica(
        "r2", pool="other", gpu_indices=(), mem_mb=8_000, idle_since=NOW - 500, hot_at=NOW - 900
    )
    pools = (replace(ON_CPU, waited_s=30.0), pool("other", gpus=0, profiles=("cpu",), mem_mb=8_000))
    made = decide(fleet(pools, (CPU_PILOT,), (resident,), profiles=(full,)))
    assert [d.replica for d in made if isinstance(d, DrainReplica)] == ["r2"]


def test_of_two_that_idle_the_one_that_slurm_may_preempt_goes() -> None:
    spare = replace(GPU, name="spare", preemptible=True)
    asked = pool(profiles=("spare", "gpu"), max_replicas=2, interest_until=NOW + 900)
    idle = NOW - 1_000
    pilots = (pilot("p1", profile="gpu"), pilot("p2", profile="spare"))
    # By fullness alone the steady one would go: it is alone in its job.
    here = (
        replica("r1", pilot="p1", idle_since=idle),
        replica("r2", pilot="p2", idle_since=idle),
        replica("r3", pool="other", pilot="p2", gpu_indices=(1,), in_flight=1, idle_since=None),
    )
    made = decide(fleet((asked, pool("other")), pilots, here, profiles=(GPU, spare)))
    assert [d.replica for d in made if isinstance(d, DrainReplica)] == ["r2"]


def test_an_environment_runs_on_its_types_of_gpu_only_and_the_reason_names_them() -> None:
    old, new = replace(GPU, name="old", gpu_type="v100"), replace(GPU, name="new", gpu_type="a100")
    asking = pool(queued=1, profiles=("old", "new"), gpu_types=("a100", "h100"))
    assert launched(decide(fleet((asking,), profiles=(old, new)))) == "new"
    untyped = replace(GPU, name="new")
    assert launched(decide(fleet((asking,), profiles=(old, untyped)))) == "new"
    reason = told(decide(fleet((replace(asking, profiles=("old",)),), profiles=(old, new))))
    assert reason == "Its environment runs on GPUs of type a100, h100, and old have others."
    there = fleet(
        (replace(asking, profiles=("old",)),), (pilot(profile="old", gpu_type="v100"),), profiles=(old,)
    )
    assert "a100, h100" in told(decide(there))
