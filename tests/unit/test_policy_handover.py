"""Hand-over: which replicas no longer count, what goes early, and what is told of a gap."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from portal.fleet.states import SERVING, PilotState, ReplicaState
from scheduler.policy import handover
from scheduler.policy.decisions import DrainPilot, DrainReplica
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import FitView, Limits, PilotView, PoolView, ProfileView, ReplicaView
from tests.unit.fleets import snapshots

NOW = 1_000_000.0
LIMITS = Limits(pilot_idle_s=60, launch_backoff_s=5, latch_after=3, hand_over_margin_s=30)
GPU = ProfileView("gpu", True, 1, 16_000, max_pilots=4, walltime_s=3600, wait_p50_s=60, wait_p90_s=300)
POOL = PoolView("llama", ("gpu",), 1, 4_000, keep_alive_s=600, load_s=100, running=1, service_s=5)
# 300 s of Slurm's wait, 100 s of load, two requests of 5 s, 30 s of margin.
LEAD_S = 440.0


def pilot(name: str, ends_in_s: float | None, **changes: object) -> PilotView:
    ends_at = NOW + ends_in_s if ends_in_s is not None else None
    return replace(PilotView(name, "gpu", "up", 1, 16_000, alive=True, ends_at=ends_at), **changes)  # type: ignore[arg-type]


def replica(name: str, at: str, **changes: object) -> ReplicaView:
    plain = ReplicaView(name, "llama", at, ReplicaState.HOT, (0,), 4_000, in_flight=1, hot_at=NOW - 3000)
    return replace(plain, **changes)  # type: ignore[arg-type]


def fleet(
    pilots: tuple[PilotView, ...],
    replicas: tuple[ReplicaView, ...],
    pools: tuple[PoolView, ...] = (POOL,),
    profile: ProfileView = GPU,
    limits: Limits = LIMITS,
) -> Snapshot:
    return Snapshot(pools, pilots, replicas, (profile,), limits, NOW)


def gone(snapshot: Snapshot) -> set[str]:
    return set(snapshot.leaving)


# -- leaving ---------------------------------------------------------------------------------------------


def test_a_replica_leaves_once_a_later_successor_would_be_too_late() -> None:
    assert gone(fleet((pilot("p", LEAD_S + 1),), (replica("r", "p"),))) == set()
    assert gone(fleet((pilot("p", LEAD_S - 1),), (replica("r", "p"),))) == {"r"}


def test_what_a_load_takes_on_this_type_of_gpu_counts() -> None:
    slow = replace(POOL, fits={"a100": FitView(load_s=500)})
    here = (pilot("p", LEAD_S + 300, gpu_type="a100"),)
    assert gone(fleet(here, (replica("r", "p"),), (slow,))) == {"r"}
    assert gone(fleet(here, (replica("r", "p"),))) == set()


def test_of_slurms_wait_the_longer_of_seen_and_estimated_counts_and_unknown_is_not_zero() -> None:
    here, host = (pilot("p", LEAD_S + 200),), (replica("r", "p"),)
    assert gone(fleet(here, host, profile=replace(GPU, starts_in_s=600.0))) == {"r"}
    unknown = replace(GPU, wait_p90_s=None)
    assert gone(fleet((pilot("p", 200),), host, profile=unknown)) == {"r"}


def test_a_replica_serves_for_half_of_its_life_however_long_jobs_wait() -> None:
    crowded = replace(GPU, wait_p90_s=86_400)
    young = replica("r", "p", hot_at=NOW - 100)
    assert gone(fleet((pilot("p", 3500),), (young,), profile=crowded)) == set()
    assert gone(fleet((pilot("p", 1700),), (young,), profile=crowded)) == set(), "half of 1800 s and the load"
    assert gone(fleet((pilot("p", 300),), (young,), profile=crowded)) == {"r"}


def test_unknown_ends_pending_jobs_and_replicas_that_still_start_do_not_leave() -> None:
    assert gone(fleet((pilot("p", None),), (replica("r", "p"),))) == set()
    assert gone(fleet((pilot("p", 5, state="pending"),), (replica("r", "p", state="wanted"),))) == set()
    starting = replica("r", "p", state="starting", hot_at=None)
    assert gone(fleet((pilot("p", 50),), (starting,))) == set()


def test_whatever_is_in_a_pilot_that_drains_leaves() -> None:
    here = (pilot("p", None, state="draining"),)
    asleep = replica("s", "p", state="asleep")
    assert gone(fleet(here, (replica("r", "p", state="starting"), asleep))) == {"r", "s"}


def test_a_pilot_takes_no_replica_that_would_leave_as_soon_as_it_is_hot() -> None:
    def closing(ends_in_s: float | None, **changes: object) -> bool:
        old = pilot("p", ends_in_s, **changes)
        return fleet((old,), ()).is_closing(POOL, old)

    assert closing(450) and not closing(900) and not closing(None)
    assert closing(None, state="draining") and not closing(10, state="pending")


def test_the_pilot_to_replace_is_the_first_to_end_that_no_job_replaces_yet() -> None:
    pilots = (pilot("a", 200), pilot("b", 100), pilot("c", 3000))
    hosts = tuple(replica(f"r{p.id}", p.id) for p in pilots)
    found = handover.predecessor(POOL, fleet(pilots, hosts))
    assert found is not None and found.pilot == "b"
    assert found.reason == (
        "the job that serves llama ends at 13:48 UTC, and a successor may need 7 min to be ready"
    )
    assert found.inputs == {"ends_in_s": 100.0, "lead_s": LEAD_S}
    coming = pilot("d", None, state="pending", replaces="b")
    found = handover.predecessor(POOL, fleet((*pilots, coming), hosts))
    assert found is not None and found.pilot == "a"
    assert handover.predecessor(POOL, fleet(pilots[2:], hosts[2:])) is None


# -- drains ----------------------------------------------------------------------------------------------


def drains(snapshot: Snapshot, **wanted: int) -> list[DrainReplica | DrainPilot]:
    return list(handover.drains(snapshot, wanted))


def test_the_old_job_goes_when_its_successor_is_hot_and_not_before() -> None:
    pilots = (pilot("old", 200), pilot("new", 3600))
    old, new = replica("r1", "old"), replica("r2", "new")
    [drain] = drains(fleet(pilots, (old, new)), llama=1)
    assert isinstance(drain, DrainPilot) and drain.pilot == "old"
    assert drain.reason == "llama is served by a newer job: this one, which ends at 13:50 UTC, is let go."
    assert drain.inputs == {"ends_in_s": 200.0}
    assert drains(fleet(pilots, (old, replace(new, state=ReplicaState.STARTING))), llama=1) == []
    mute = (pilots[0], replace(pilots[1], alive=False))
    assert drains(fleet(mute, (old, new)), llama=1) == [], "a successor that does not report serves nobody"


def test_only_as_many_go_as_are_not_needed() -> None:
    pilots = (pilot("a", 100), pilot("b", 200), pilot("c", 3600))
    hosts = tuple(replica(f"r{p.id}", p.id) for p in pilots)
    assert [d.pilot for d in drains(fleet(pilots, hosts), llama=3)] == []
    assert [d.pilot for d in drains(fleet(pilots, hosts), llama=2)] == ["a"]
    assert [d.pilot for d in drains(fleet(pilots, hosts), llama=1)] == ["a", "b"]
    assert drains(fleet(pilots, hosts), llama=0) == [], "without demand its keep-alive ends it"
    assert drains(fleet(pilots[:2], hosts[:2]), llama=1) == [], "nothing has taken over"


def test_a_pilot_that_another_model_still_needs_loses_only_the_replica_that_was_replaced() -> None:
    pools = (POOL, replace(POOL, name="other"))
    pilots = (pilot("old", 200, gpus=2), pilot("new", 3600))
    hosts = (replica("r1", "old"), replica("r2", "new"), replica("o", "old", pool="other", gpu_indices=(1,)))
    [drain] = drains(fleet(pilots, hosts, pools), llama=1, other=1)
    assert isinstance(drain, DrainReplica) and drain.replica == "r1"
    assert drain.reason == "llama is served by a newer job, and this one ends at 13:50 UTC."
    idle = (*hosts[:2], replace(hosts[2], in_flight=0))
    [drain] = drains(fleet(pilots, idle, pools), llama=1)
    assert isinstance(drain, DrainPilot), "nobody misses an idle model that nobody wants"
    [drain] = drains(fleet(pilots, hosts, pools), llama=1)
    assert isinstance(drain, DrainReplica), "busy is busy, wanted or not"


# -- a cap that equals the fleet -------------------------------------------------------------------------


def test_at_the_cap_a_job_that_does_nothing_makes_room_for_a_successor() -> None:
    profile = replace(GPU, max_pilots=2)
    pilots = (pilot("busy", 200), pilot("lazy", 300))
    hosts = (replica("r1", "busy"), replica("o", "lazy", pool="other", in_flight=0))
    pools = (POOL, replace(POOL, name="other"))
    snapshot = fleet(pilots, hosts, pools, profile)
    [drain] = drains(snapshot, llama=1)
    assert isinstance(drain, DrainPilot) and drain.pilot == "lazy"
    assert drain.reason == (
        "It does nothing, and no more than 2 jobs may run under gpu: a successor for llama takes its place."
    )
    assert drains(fleet(pilots, hosts, pools, GPU), llama=1) == [], "below the cap nobody has to go"
    assert (
        drains(fleet((pilots[0], replace(pilots[1], ends_at=NOW + 3600)), hosts, pools, profile), llama=1)
        == []
    )
    assert drains(snapshot) == [], "nobody wants llama at its end"
    assert drains(fleet(pilots, hosts, pools, profile), llama=1, other=1) == [], "it is wanted"
    going = (pilots[0], replace(pilots[1], state=PilotState.DRAINING))
    assert drains(fleet(going, hosts, pools, profile), llama=1) == [], "a place is being cleared already"


def test_the_cluster_s_cap_on_gpus_counts_as_the_profile_s() -> None:
    limits = replace(LIMITS, max_gpus=2)
    pilots = (pilot("busy", 200), pilot("empty", 300))
    [drain] = drains(fleet(pilots, (replica("r1", "busy"),), limits=limits), llama=1)
    assert drain.pilot == "empty" and "no more than 2 GPUs may be in use" in drain.reason


def test_jobs_that_end_together_at_the_cap_are_replaced_one_after_the_other() -> None:
    profile = replace(GPU, max_pilots=2)
    together = (pilot("a", 400), pilot("b", 410))
    hosts = (replica("ra", "a"), replica("rb", "b"))
    [drain] = drains(fleet(together, hosts, profile=profile), llama=2)
    assert isinstance(drain, DrainPilot) and drain.pilot == "a"
    assert drain.reason.startswith("2 jobs end close together, and no more than 2 jobs may run under gpu:")
    apart = (pilot("a", 400), pilot("b", 3000))
    assert drains(fleet(apart, hosts, profile=profile), llama=2) == [], "they are apart already"
    assert drains(fleet(together[:1], hosts[:1], profile=replace(GPU, max_pilots=1)), llama=1) == []
    other = (hosts[0], replace(hosts[1], pool="other"))
    pools = (POOL, replace(POOL, name="other"))
    found = drains(fleet(together, other, pools, profile), llama=1, other=1)
    assert found == [], "each is the only one that serves its model"


def test_two_caps_that_bind_send_one_job_away_once() -> None:
    together = (pilot("a", 400), pilot("b", 410))
    hosts = (replica("ra", "a"), replica("rb", "b"))
    both = fleet(together, hosts, profile=replace(GPU, max_pilots=2), limits=replace(LIMITS, max_gpus=2))
    [drain] = drains(both, llama=2)
    assert isinstance(drain, DrainPilot) and drain.pilot == "a"


def test_a_busy_job_that_need_not_be_replaced_yet_stays_whatever_loads_for_long_beside_it() -> None:
    quick, slow = replace(POOL, name="quick", load_s=0, service_s=0), replace(POOL, name="slow", load_s=1000)
    pilots = (pilot("a", 400), replace(pilot("b", 410), gpus=2))
    hosts = (
        replica("ra", "a", pool="quick"),
        replica("rb", "b", pool="slow"),
        replica("rb2", "b", pool="quick", gpu_indices=(1,)),
    )
    snapshot = fleet(pilots, hosts, (quick, slow), replace(GPU, max_pilots=2))
    assert gone(snapshot) == {"rb"}
    assert drains(snapshot, quick=2, slow=1) == []


# -- the gap ---------------------------------------------------------------------------------------------


def test_a_gap_is_announced_with_its_end_in_words_that_stay_the_same() -> None:
    snapshot = fleet((pilot("p", 200),), (replica("r", "p"),), profile=replace(GPU, max_pilots=1))
    said = handover.gap(POOL, snapshot)
    assert said == (
        "The job that serves llama ends at 13:50 UTC, and no further job may start beside it under gpu: "
        "requests wait then, until about 13:53 UTC."
    )
    assert handover.gap(POOL, replace(snapshot, now=NOW + 7)) == said


def test_a_successor_that_slurm_keeps_waiting_is_a_gap_only_once_it_cannot_come_in_time() -> None:
    old, new = pilot("p", 200), pilot("q", None, state="pending", replaces="p")
    hosts = (replica("r", "p"), replica("s", "q", state="wanted"))
    # 100 s of load, 10 s of drain and half of the margin.
    assert handover.gap(POOL, replace(fleet((old, new), hosts), now=NOW + 75)) == ""
    said = handover.gap(POOL, replace(fleet((old, new), hosts), now=NOW + 76))
    assert said.startswith(
        "The job that serves llama ends at 13:50 UTC, and Slurm has not started the next one"
    )
    up = (old, replace(new, state=PilotState.UP))
    assert handover.gap(POOL, replace(fleet(up, hosts), now=NOW + 101)) == "", (
        "it is loading: the model's state says so"
    )


def test_no_gap_without_an_end() -> None:
    assert handover.gap(POOL, fleet((pilot("p", 3600),), (replica("r", "p"),))) == ""
    assert handover.gap(POOL, fleet((), ())) == ""


# -- properties ------------------------------------------------------------------------------------------

wants = st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(0, 3))


@settings(max_examples=200, deadline=None)
@given(snapshots(), wants, st.none() | st.integers(0, 8))
def test_hand_over_never_takes_the_last_ones_that_are_wanted(
    snapshot: Snapshot, wanted: dict[str, int], max_gpus: int | None
) -> None:
    snapshot = replace(snapshot, limits=replace(LIMITS, max_gpus=max_gpus))
    decided = list(handover.drains(snapshot, wanted))
    assert len({d.pilot for d in decided if isinstance(d, DrainPilot)}) == sum(
        isinstance(d, DrainPilot) for d in decided
    )
    taken = {d.replica for d in decided if isinstance(d, DrainReplica)}
    for drain in decided:
        if isinstance(drain, DrainPilot):
            taken |= {r.id for r in snapshot.by_pilot[drain.pilot]}
    lost = [r for r in snapshot.replicas if r.id in taken]
    alive = {p.id for p in snapshot.pilots if p.alive and p.state == "up"}
    for name in {r.pool for r in lost if r.state in SERVING and wanted.get(r.pool, 0)}:
        left = [
            r for r in snapshot.by_pool[name] if r.id not in taken and r.state == "hot" and r.pilot in alive
        ]
        assert left, f"nothing serves {name} any more"


@settings(max_examples=200, deadline=None)
@given(snapshots(), st.floats(0, 600))
def test_a_replica_that_leaves_goes_on_leaving_until_its_end(snapshot: Snapshot, later_s: float) -> None:
    assert snapshot.leaving <= replace(snapshot, now=NOW + later_s).leaving


@settings(max_examples=200, deadline=None)
@given(snapshots())
def test_a_gap_is_told_only_where_nothing_else_serves(snapshot: Snapshot) -> None:
    gone = snapshot.leaving
    up = {p.id for p in snapshot.pilots if p.state == "up"}
    for pool in snapshot.pools:
        if handover.gap(pool, snapshot):
            rest = [r for r in snapshot.by_pool[pool.name] if r.id not in gone and r.state in SERVING]
            assert not [r for r in rest if r.pilot in up]
