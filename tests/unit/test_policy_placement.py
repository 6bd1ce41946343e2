"""Where a replica goes: pilots as pools, profiles, caps, types of GPU, reservations."""

from __future__ import annotations

from dataclasses import replace

from scheduler.policy.decide import decide
from scheduler.policy.decisions import Decision, HoldPool, LaunchPilot, PlaceReplica
from scheduler.policy.views import FitView, Limits, ProfileView
from tests.unit.test_policy_decide import GPU, LIMITS, NOW, fleet, only, pilot, pool, replica

FAR = replace(GPU, name="far", wait_p50_s=1_000.0)
NEAR = replace(GPU, name="near", wait_p50_s=100.0)
BOTH = ("far", "near")


def launched(decisions: list[Decision]) -> str:
    made = only(decisions)
    assert isinstance(made, LaunchPilot), made
    return made.profile


def told(decisions: list[Decision]) -> str:
    made = only(decisions)
    assert isinstance(made, HoldPool), made
    return made.reason


def test_several_replicas_of_one_model_share_a_pilot_that_has_room() -> None:
    one = replica(in_flight=32, idle_since=None)
    busy = pool(queued=900, running=32, service_s=10.0, max_replicas=3)
    made = only(decide(fleet((busy,), (pilot(),), (one,))))
    assert isinstance(made, PlaceReplica)
    assert (made.pilot, made.gpu_indices) == ("p1", (1,))


def test_a_pilot_that_has_the_weights_staged_is_preferred_to_a_fuller_one() -> None:
    other = replica("r2", pool="other", pilot="p2", in_flight=1, idle_since=None)
    pilots = (pilot(staged=frozenset({"llama"})), pilot("p2"))
    made = only(decide(fleet((pool(queued=1), pool("other")), pilots, (other,))))
    assert isinstance(made, PlaceReplica) and made.pilot == "p1"


def test_what_sleeps_holds_host_memory_and_no_gpu() -> None:
    asleep = replica("r2", pool="other", state="asleep", gpu_indices=(), mem_mb=11_000, asleep_at=NOW)
    fits = decide(fleet((pool(queued=1), pool("other")), (pilot(),), (asleep,)))
    assert isinstance(only(fits), PlaceReplica)
    fat = decide(fleet((pool(queued=1, mem_mb=6_000), pool("other")), (pilot(),), (asleep,)))
    assert not [d for d in fat if isinstance(d, PlaceReplica)]


def test_the_profile_with_the_least_wait_and_load_gets_the_job_and_of_equals_the_cheaper_one() -> None:
    asking = pool(queued=1, profiles=BOTH)
    assert launched(decide(fleet((asking,), profiles=(FAR, NEAR)))) == "near"
    known = replace(FAR, starts_in_s=10.0)
    assert launched(decide(fleet((asking,), profiles=(known, NEAR)))) == "far"
    slow = replace(asking, fits={"a100": FitView(load_s=2_000.0)})
    typed = replace(NEAR, gpu_type="a100")
    assert launched(decide(fleet((slow,), profiles=(FAR, typed)))) == "far"
    cheap = replace(NEAR, name="far", cost=0.5)
    assert launched(decide(fleet((asking,), profiles=(cheap, NEAR)))) == "far"


def test_a_type_of_gpu_that_it_did_not_fit_is_left_out_and_an_untried_one_is_not() -> None:
    typed = replace(GPU, gpu_type="t4")
    unfit = pool(queued=1, fits={"t4": FitView(fits=False)})
    reason = "It did not fit on the GPUs of gpu, and it may run nowhere else."
    assert told(decide(fleet((unfit,), profiles=(typed,)))) == reason
    there = fleet((unfit,), (pilot(gpu_type="t4"),))
    assert isinstance(only(decide(there)), LaunchPilot)
    untried = replace(unfit, fits={"a100": FitView(fits=False)})
    assert launched(decide(fleet((untried,), profiles=(typed,)))) == "gpu"


def test_preemptible_jobs_take_batch_and_burst_and_the_first_interactive_replica_only_without_a_choice() -> (
    None
):
    spare = replace(GPU, name="spare", preemptible=True, wait_p50_s=0.0)
    steady = replace(GPU, name="steady", wait_p50_s=500.0)
    either = pool(queued=1, profiles=("spare", "steady"))
    people, lines = replace(either, queued_held=1), replace(either, queued_batch=1)
    assert launched(decide(fleet((people,), profiles=(spare, steady)))) == "steady"
    assert launched(decide(fleet((lines,), profiles=(spare, steady)))) == "spare"
    full = replace(steady, max_pilots=0)
    assert "steady are in use" in told(decide(fleet((people,), profiles=(spare, full))))
    lone = replace(people, profiles=("spare",))
    assert launched(decide(fleet((lone,), profiles=(spare, steady)))) == "spare"
    shut = replace(steady, latched="bad account")
    assert launched(decide(fleet((people,), profiles=(spare, shut)))) == "spare"
    first = replica(in_flight=32, idle_since=None)
    burst = replace(people, queued=900, service_s=60.0, max_replicas=2)
    four = pilot(profile="steady", gpus=1)
    assert launched(decide(fleet((burst,), (four,), (first,), profiles=(spare, steady)))) == "spare"


def test_hard_caps_of_cluster_and_project_are_told() -> None:
    capped = Limits(60, 5, 3, max_gpus=7)
    assert told(decide(fleet((pool(queued=1),), (pilot(state="draining"),), limits=capped))) == (
        "All of the 7 GPUs that may be used at once are in use."
    )
    limits = Limits(60, 5, 3, project_gpus={"physics": 2})
    other = replica("r2", pool="other", gpu_indices=(0, 1), in_flight=1, idle_since=None)
    pools = (pool(queued=1, project="physics"), pool("other", project="physics", gpus=2))
    reason = "Project physics uses all of the 2 GPUs that it may use at once."
    assert told(decide(fleet(pools, (pilot(),), (other,), limits=limits))) == reason
    elsewhere = (replace(pools[0], project=""), pools[1])
    assert isinstance(only(decide(fleet(elsewhere, (pilot(),), (other,), limits=limits))), PlaceReplica)


def test_jobs_of_a_project_serve_only_its_models() -> None:
    own = replace(GPU, project="physics")
    assert "serve other projects only" in told(decide(fleet((pool(queued=1),), profiles=(own,))))
    stranger = fleet((pool(queued=1, project="biology"),), (pilot(),), profiles=(own,))
    assert isinstance(only(decide(stranger)), HoldPool)
    member = fleet((pool(queued=1, project="physics"),), profiles=(own,))
    assert launched(decide(member)) == "gpu"


def test_a_job_ends_before_the_next_reservation_and_is_not_submitted_when_little_is_left() -> None:
    def before(left_s: float) -> ProfileView:
        return replace(GPU, free_until=NOW + left_s, least_s=600.0, walltime_s=14_400.0)

    made = only(decide(fleet((pool(queued=1),), profiles=(before(3_600),))))
    assert isinstance(made, LaunchPilot)
    assert made.limit_s == 3_600
    later = only(decide(fleet((pool(queued=1),), profiles=(before(20_000),))))
    assert isinstance(later, LaunchPilot) and later.limit_s is None
    assert told(decide(fleet((pool(queued=1),), profiles=(before(599),)))) == (
        "A reservation over the nodes of gpu begins too soon for a job to be useful."
    )


def test_nothing_is_submitted_under_a_latched_profile_but_its_jobs_are_used() -> None:
    shut = replace(GPU, latched="Slurm refused the job: invalid account")
    assert told(decide(fleet((pool(queued=1),), profiles=(shut,)))) == (
        "Nothing is submitted under gpu until an operator has looked: Slurm refused the job: invalid account"
    )
    assert isinstance(only(decide(fleet((pool(queued=1),), (pilot(),), profiles=(shut,)))), PlaceReplica)


def test_those_who_have_waited_longest_choose_first() -> None:
    pools = (pool("a", queued=1, waited_s=5, gpus=4), pool("b", queued=1, waited_s=50, gpus=4))
    made = decide(fleet(pools, (pilot(),), profiles=(replace(GPU, max_pilots=1),)))
    assert [d.pool for d in made if isinstance(d, PlaceReplica)] == ["b"]
    heavy = (replace(pools[0], weight=20.0), pools[1])
    made = decide(fleet(heavy, (pilot(),), profiles=(replace(GPU, max_pilots=1),)))
    assert [d.pool for d in made if isinstance(d, PlaceReplica)] == ["a"]


def test_a_pilot_whose_models_are_leaving_takes_no_other_and_its_successor_says_what_it_replaces() -> None:
    old = replica(in_flight=1, idle_since=None, hot_at=NOW - 5_000)
    ending = pilot(ends_at=NOW + 120)
    made = decide(fleet((pool(running=1), pool("other", queued=1)), (ending,), (old,)))
    launch = made[0]
    assert isinstance(launch, LaunchPilot)
    assert (launch.pool, launch.replaces) == ("llama", "p1")
    assert launch.reason.startswith("Llama is in use, but the job that serves llama ends at ")
    assert not [d for d in made if isinstance(d, PlaceReplica)]
    assert LIMITS.hand_over_margin_s < 120
