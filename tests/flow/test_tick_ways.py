"""Several clusters and several ways to one: what is silent, slow or broken holds its own profiles, and nobody else's."""

from __future__ import annotations

import threading
import time
import uuid
from collections.abc import Callable, Iterator

import pytest
import redis as redis_library

from portal.catalog.models import Access, Profile
from portal.fleet.models import BadNode, Command, Decision, Pilot, PoolState, ProfileState, WayState
from scheduler.observe import bad_nodes
from scheduler.observe.ways import way_of
from scheduler.slurm import fan_out, patience
from scheduler.slurm.protocol import Jobs, NoAnswer, NotOffered, PartitionInfo, UsageInfo
from scheduler.slurm.spec import JobSpec
from tests.flow.tick_world import FakeSlurm, World

pytestmark = pytest.mark.django_db(transaction=True)

SILENCE = "squeue: no answer within 20 s"


@pytest.fixture
def world(redis: redis_library.Redis) -> Iterator[World]:
    """Let llama run in cluster main, by Slurm's commands, and alpaca in cluster alps, by an access."""
    made = World(redis)
    made.slurms["alps"] = FakeSlurm()
    add_profile(
        made, "far", Access.objects.create(name="alps", cluster="alps", submit_prefix=["ssh", "alps1"])
    )
    made.add_pool("alpaca").profiles.set([Profile.objects.get(name="far")])
    yield made
    fan_out._under_way.clear()
    patience._left_alone.clear()


def add_profile(world: World, name: str, access: Access) -> Profile:
    asks = {"partition": "gpu", "gpu_type": "a100", "gpus": 2, "mem_mb": 16_000, "max_pilots": 2}
    return Profile.objects.create(name=name, access=access, **asks)


def pilot_of(profile: str) -> Pilot:
    return Pilot.objects.exclude(state="ended").get(profile__name=profile)


def serve(world: World, pool: str, slurm: FakeSlurm, profile: str) -> Pilot:
    """Run the pool's pilot, and let its agent register."""
    world.ask(pool)
    world.tick()
    pilot = pilot_of(profile)
    assert pilot.job_id is not None
    world.start(pilot)
    slurm.set(pilot.job_id, "RUNNING")
    world.report(pilot)
    world.tick()
    pilot.refresh_from_db()
    assert pilot.state == "up"
    return pilot


def raises(error: Exception) -> Callable[[], Jobs]:
    def jobs() -> Jobs:
        raise error

    return jobs


FAULTS = [
    pytest.param(NoAnswer(SILENCE), SILENCE, id="silent"),
    pytest.param(NoAnswer("squeue: not a listing: 'Welcome to alps1'"), "Welcome to alps1", id="greets"),
    pytest.param(KeyError("job_state"), "The client failed: KeyError", id="a client that breaks"),
    pytest.param(NotOffered("this way lists no jobs"), "lists no jobs", id="not offered"),
]


def test_one_portal_serves_two_clusters_whose_jobs_bear_the_same_numbers(world: World) -> None:
    far = world.slurms["alps"]
    here, there = serve(world, "llama", world.slurm, "gpu"), serve(world, "alpaca", far, "far")
    assert (here.cluster, there.cluster) == ("main", "alps") and here.job_id == there.job_id
    assert (len(world.slurm.submitted), len(far.submitted)) == (1, 1)
    world.give(Command.Kind.CANCEL, pilot=there)
    world.tick()
    assert (world.slurm.cancelled, far.cancelled) == ([], [there.job_id])
    far.set(there.job_id or 0, "COMPLETED")
    for _ in range(3):
        world.report(here)
        world.tick(10)
    here.refresh_from_db()
    there.refresh_from_db()
    assert (here.state, there.state) == ("up", "ended")


@pytest.mark.parametrize(("error", "heard"), FAULTS)
def test_what_one_way_does_not_answer_holds_only_its_own(
    world: World, error: Exception, heard: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    far = world.slurms["alps"]
    there = serve(world, "alpaca", far, "far")
    job_id = there.job_id or 0
    with monkeypatch.context() as patch:
        patch.setattr(far, "jobs", raises(error))
        far.vanish(job_id)  # it would look as if it were gone
        world.ask("llama")
        world.tick(5)
        here = pilot_of("gpu")
        assert here.state == "submitted", "the other cluster starts what it is asked for"
        world.slurm.set(here.job_id or 0, "FAILED")
        world.tick(200)
        here.refresh_from_db()
        there.refresh_from_db()
        assert here.state == "ended", "and hears of an end"
        assert there.state == "up", "nothing was heard of this one: silence is not absence"
        assert (world.way().error, heard in world.way("alps", "alps").error) == ("", True)
    [(told, inputs)] = Decision.objects.filter(kind="slurm_silent").values_list("reason", "inputs")
    assert told.startswith("Slurm (alps, by ssh alps1) does not answer: ") and heard in told and inputs == {}
    assert "The other ways to Slurm are not held." in told
    far.add(there.job_name, "RUNNING")
    far.set(101, "RUNNING")
    world.report(there)
    world.tick()
    assert world.way("alps", "alps").error == ""
    [again] = Decision.objects.filter(kind="slurm_answers").values_list("reason", flat=True)
    assert again.startswith("Slurm (alps, by ssh alps1) answers again")


def test_a_model_of_a_silent_cluster_waits_with_the_reason_and_starts_when_it_answers(world: World) -> None:
    far = world.slurms["alps"]
    far.silent = SILENCE
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    world.tick()
    assert [pilot.profile.name for pilot in Pilot.objects.all()] == ["gpu"]
    held = PoolState.objects.get(pool="alpaca").reason
    assert held == f"Slurm (alps, by ssh alps1) does not answer; nothing is started until it does. {SILENCE}"
    assert not PoolState.objects.exclude(reason="").filter(pool="llama").exists()
    far.silent = ""
    world.tick()
    assert pilot_of("far").state == "submitted"


def test_a_model_that_may_run_in_both_starts_in_the_one_that_answers(world: World) -> None:
    world.add_pool("vicuna").profiles.set(Profile.objects.all())
    Profile.objects.filter(name="far").update(cost=0.1)  # cheaper, and so the first choice
    world.slurms["alps"].silent = SILENCE
    world.ask("vicuna")
    world.tick()
    assert pilot_of("gpu").state == "submitted"


def test_a_submission_that_is_not_answered_holds_only_its_own_way(world: World) -> None:
    far = world.slurms["alps"]

    def lose_the_answer() -> None:
        raise NoAnswer("sbatch: no answer within 20 s")

    far.on_submit = lose_the_answer
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    assert pilot_of("far").state == "planned" and pilot_of("gpu").state == "submitted"
    assert world.way("alps", "alps").error == "sbatch: no answer within 20 s"
    world.tick()
    adopted = pilot_of("far")
    assert (adopted.state, adopted.job_id, len(far.submitted)) == ("pending", 101, 1)


class Hangs(FakeSlurm):
    """A controller whose listings do not come before `go` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.listings = 0

    def jobs(self) -> Jobs:
        self.listings += 1
        assert self.go.wait(60)
        return super().jobs()


def test_a_way_that_hangs_does_not_stretch_the_tick_and_its_answer_is_taken_later(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fan_out, "WAIT_S", 0.2)
    world.slurms["alps"] = far = Hangs()
    world.ask("alpaca")
    world.ask("llama")
    try:
        before = time.monotonic()
        for _ in range(3):
            world.tick()
        assert time.monotonic() - before < 30, "the listing alone hangs for a minute"
        assert pilot_of("gpu").state == "pending" and far.listings == 1, "one question at a time"
        assert not Pilot.objects.filter(profile__name="far").exists()
        assert world.way("alps", "alps").error == "", "it thinks yet: that is no silence"
        asked_at = fan_out._under_way[way_of(Profile.objects.select_related("access").get(name="far"))].at
    finally:
        far.go.set()
    deadline = time.monotonic() + 30
    while world.way("alps", "alps").answered_at is None:
        assert time.monotonic() < deadline
        world.tick()
    assert world.way("alps", "alps").answered_at.timestamp() >= asked_at  # type: ignore[union-attr]
    assert pilot_of("far").state == "submitted"


class SubmitsSlowly(FakeSlurm):
    """A Slurm whose sbatch hangs until `go` is set, and then makes the job; all else answers."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.begun = 0

    def submit(self, script: str, spec: JobSpec) -> int:
        self.begun += 1
        assert self.go.wait(60)
        return super().submit(script, spec)


def test_a_submission_that_hangs_holds_nobody_else_and_makes_one_job(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "WAIT_S", 0.2)
    world.slurms["alps"] = far = SubmitsSlowly()
    world.ask("alpaca")
    world.ask("llama")
    try:
        before = time.monotonic()
        for _ in range(4):
            world.tick()
        assert time.monotonic() - before < 30, "one sbatch alone hangs for a minute"
        assert pilot_of("gpu").state == "pending" and pilot_of("far").state == "planned"
        assert far.begun == 1 and "other clusters wait" in world.way("alps", "alps").error
    finally:
        far.go.set()
    deadline = time.monotonic() + 30
    while patience.is_busy(way_of(Profile.objects.select_related("access").get(name="far"))):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    patience._left_alone.clear()  # as in another process, which knows nothing of it
    world.tick(world.config.slurm_timeout_s / 2)
    assert pilot_of("far").state == "planned", "not asked before it must have ended"
    for _ in range(3):
        world.tick(world.config.slurm_timeout_s / 2)
    assert (pilot_of("far").state, pilot_of("far").job_id, far.begun) == ("pending", 101, 1)
    assert world.way("alps", "alps").error == ""


def test_a_client_that_breaks_while_it_submits_holds_only_its_own(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(script: str, spec: JobSpec) -> int:
        raise KeyError("job_id")

    monkeypatch.setattr(world.slurms["alps"], "submit", submit)
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    assert pilot_of("gpu").state == "submitted" and pilot_of("far").state == "planned"
    assert "the client failed: KeyError" in world.way("alps", "alps").error


def test_an_answer_that_came_late_counts_from_when_it_was_asked_for(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a job that was submitted meanwhile would be taken for one that is gone."""
    monkeypatch.setattr(fan_out, "WAIT_S", 0.2)
    there = serve(world, "alpaca", world.slurms["alps"], "far")
    world.redis.flushdb()
    job_id, real = there.job_id or 0, world.slurms["alps"]
    world.slurms["alps"] = far = Hangs()
    world.tick(60)
    asked_at = world.now
    Pilot.objects.filter(pk=there.pk).update(slurm_seen_at=world.at())
    world.tick(60)
    far.go.set()
    deadline = time.monotonic() + 30
    while (
        answered_at := world.way("alps", "alps").answered_at
    ) is None or answered_at.timestamp() < asked_at:
        assert time.monotonic() < deadline
        world.tick(0)
    there.refresh_from_db()
    assert there.state == "up", f"job {job_id} was seen when that question was asked"
    assert real.cancelled == []


def two_ways(world: World) -> FakeSlurm:
    """Make a second way to main, by which another account's jobs are listed."""
    add_profile(
        world, "other", Access.objects.create(name="login2", cluster="main", submit_prefix=["ssh", "login2"])
    )
    world.add_pool("camel").profiles.set([Profile.objects.get(name="other")])
    world.slurms["login2"] = FakeSlurm()
    world.slurms["login2"]._next_id = 500
    return world.slurms["login2"]


def test_of_two_ways_to_one_cluster_each_judges_its_own_pilots(world: World) -> None:
    second = two_ways(world)
    here, other = serve(world, "llama", world.slurm, "gpu"), serve(world, "camel", second, "other")
    assert here.cluster == other.cluster == "main"
    second.silent = SILENCE
    second.vanish(other.job_id or 0)
    world.slurm.vanish(here.job_id or 0)
    world.redis.flushdb()
    world.tick(200)
    here.refresh_from_db()
    other.refresh_from_db()
    assert (here.state, other.state) == ("ended", "up")
    assert {(row.name, bool(row.error)) for row in WayState.objects.filter(cluster="main")} == {
        ("", False), ("login2", True),
    }  # fmt: skip


def test_an_unknown_job_that_two_ways_show_is_one_and_cancelled_once(world: World) -> None:
    second = two_ways(world)
    name = f"berth-{world.config.instance}-{uuid.uuid4()}"
    job_id = world.slurm.add(name, "RUNNING")
    second._next_id = job_id - 1
    assert second.add(name, "RUNNING") == job_id
    world.tick()
    world.tick(61)
    assert sorted(world.slurm.cancelled + second.cancelled) == [job_id]


def test_a_silent_way_keeps_the_unknown_jobs_that_it_showed(world: World) -> None:
    second = two_ways(world)
    job_id = second.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    world.tick()
    second.silent = SILENCE
    world.tick(100)
    assert second.cancelled == [] and str(job_id) in world.cluster().orphans
    second.silent = ""
    world.tick(2)
    assert second.cancelled == [job_id]


def test_unknown_jobs_of_one_number_in_two_clusters_are_told_apart(world: World) -> None:
    far = world.slurms["alps"]
    ours = [
        slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING") for slurm in (world.slurm, far)
    ]
    assert ours[0] == ours[1]
    world.tick()
    vague = world.give(Command.Kind.REJECT, args={"job_id": ours[0]})
    named = world.give(Command.Kind.ADOPT, args={"job_id": ours[0], "cluster": "alps"})
    wrong = world.give(Command.Kind.REJECT, args={"job_id": ours[0], "cluster": "nowhere"})
    world.tick()
    for command in (vague, named, wrong):
        command.refresh_from_db()
    assert vague.state == "refused" and "Clusters alps and main both have an unknown job" in vague.result
    assert wrong.state == "refused" and "There is no cluster 'nowhere'" in wrong.result
    assert named.state == "done" and pilot_of("far").cluster == "alps"
    assert (world.slurm.cancelled, far.cancelled) == ([], [])


def test_one_cluster_is_paused_and_the_other_goes_on(world: World) -> None:
    world.give(Command.Kind.PAUSE, args={"cluster": "alps"})
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    assert [pilot.profile.name for pilot in Pilot.objects.all()] == ["gpu"]
    assert "paused the cluster of its profiles" in PoolState.objects.get(pool="alpaca").reason
    world.give(Command.Kind.PAUSE)
    world.tick()
    assert world.cluster().paused and world.cluster("alps").paused
    world.give(Command.Kind.RESUME)
    world.tick()
    assert pilot_of("far").state == "submitted"


def test_a_bad_node_is_bad_in_its_own_cluster(world: World) -> None:
    until = world.at().replace(year=world.at().year + 1)
    BadNode.objects.create(cluster="alps", node="gpu01", failures=2, excluded_until=until, reason="it broke")
    assert (bad_nodes.excluded("main", world.now), bad_nodes.excluded("alps", world.now)) == ((), ("gpu01",))
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    assert "--exclude=gpu01" in world.slurms["alps"].scripts[-1]
    assert "--exclude" not in world.slurm.scripts[-1]


def test_facts_are_kept_by_cluster_and_a_silent_one_keeps_what_was_known(world: World) -> None:
    world.slurm.described = {"gpu": PartitionInfo("gpu", True, None, ())}
    world.slurms["alps"].described = {"normal": PartitionInfo("normal", True, 60, ())}
    world.tick()
    assert (set(world.cluster().partitions), set(world.cluster("alps").partitions)) == ({"gpu"}, {"normal"})
    world.slurms["alps"].silent = SILENCE
    world.slurm.described = {"gpu2": PartitionInfo("gpu2", True, None, ())}
    world.tick(120)
    assert (set(world.cluster().partitions), set(world.cluster("alps").partitions)) == ({"gpu2"}, {"normal"})


class OffersLittle(FakeSlurm):
    """A Slurm with the core verbs only, as a site may allow them."""

    def reservations(self) -> dict[str, object]:  # type: ignore[override]
        raise NotOffered("this way has no reservations")

    def accounts(self) -> dict[str, list[str]]:
        raise NotOffered("this way has no accounts")

    def estimate_start(self, spec: JobSpec) -> float:
        raise NotOffered("this way has no an estimate")

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        raise NotOffered("this way has no accounting")

    def log_tail(self, path: str, max_bytes: int) -> str:
        raise NotOffered("this way has no logs")


def test_what_a_way_does_not_offer_is_not_silence(world: World) -> None:
    world.slurms["alps"] = far = OffersLittle()
    there = serve(world, "alpaca", far, "far")
    assert world.way("alps", "alps").error == "" and ProfileState.objects.filter(profile__name="far").exists()
    log = world.give(Command.Kind.LOG, pilot=there)
    far.vanish(there.job_id or 0)
    world.redis.flushdb()
    world.tick(200)
    there.refresh_from_db()
    log.refresh_from_db()
    assert there.state == "ended" and far.forgotten, "the secret goes although the log is not offered"
    assert log.state == "refused" and "logs" in log.result
    assert not Decision.objects.filter(kind="slurm_silent").exists()


def test_after_a_restore_each_cluster_waits_for_its_own_unknown_jobs(world: World) -> None:
    far = world.slurms["alps"]
    world.tick()
    world.tick()
    far.silent = SILENCE
    far.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    for name in ("main", "alps"):
        row = world.cluster(name)
        row.ticked_at = world.at().replace(year=world.at().year - 1)  # as an older dump has it
        row.save()
    world.tick()
    assert not world.cluster().paused and not world.cluster("alps").paused
    far.silent = ""
    world.ask("llama")
    world.ask("alpaca")
    world.tick()
    world.tick()
    assert not world.cluster().paused and world.cluster("alps").paused, "heard at last"
    assert [pilot.profile.name for pilot in Pilot.objects.all()] == ["gpu"]
    world.give(Command.Kind.RESUME, args={"cluster": "alps"})
    world.tick()
    world.tick()
    assert not world.cluster("alps").paused, "a person has decided"


def test_a_way_that_nobody_uses_is_not_asked_and_tells_of_no_silence(world: World) -> None:
    world.slurms["alps"].silent = SILENCE
    world.tick()
    assert world.way("alps", "alps").error
    Profile.objects.filter(name="far").update(enabled=False)
    asked = world.slurms["alps"].asked
    world.tick(30)
    assert world.slurms["alps"].asked == asked
    assert not WayState.objects.filter(name="alps").exists()
    assert world.cluster("alps").ticked_at is not None


def test_a_disabled_profile_with_a_live_job_keeps_its_way(world: World) -> None:
    there = serve(world, "alpaca", world.slurms["alps"], "far")
    Profile.objects.filter(name="far").update(enabled=False)
    world.slurms["alps"].set(there.job_id or 0, "FAILED")
    world.redis.flushdb()
    world.tick(200)
    there.refresh_from_db()
    assert there.state == "ended"


def test_a_pilot_whose_cluster_no_way_leads_to_is_left_alone(world: World) -> None:
    """Its number may be another job's where Slurm's commands lead."""
    there = serve(world, "alpaca", world.slurms["alps"], "far")
    Profile.objects.filter(name="far").update(access=None)
    command = world.give(Command.Kind.CANCEL, pilot=there)
    world.redis.flushdb()
    world.tick(1000)
    there.refresh_from_db()
    command.refresh_from_db()
    assert there.state == "up" and command.state == "pending"
    assert "no access of an enabled profile leads there" in command.result
    assert (world.slurm.cancelled, world.slurms["alps"].cancelled) == ([], [])


def test_a_number_that_another_slurm_of_the_same_name_gave_ends_no_live_pilot(world: World) -> None:
    """Two clusters that somebody called by one name: the later job goes, with words, and another one is asked for."""
    second = two_ways(world)
    here = serve(world, "llama", world.slurm, "gpu")
    second._next_id = (here.job_id or 0) - 1
    world.ask("camel")
    world.report(here)
    world.tick()
    here.refresh_from_db()
    assert here.state == "up"
    gone = Pilot.objects.get(profile__name="other", state="ended")
    assert "give its access a cluster name of its own" in gone.end_reason
    assert second.cancelled == [here.job_id]
    world.report(here)
    world.tick()
    assert pilot_of("other").job_id == (here.job_id or 0) + 1
    assert PoolState.objects.filter(failures__gt=0).count() == 0


def test_that_holds_also_for_a_job_whose_submission_was_not_heard(world: World) -> None:
    second = two_ways(world)
    here = serve(world, "llama", world.slurm, "gpu")
    second._next_id = (here.job_id or 0) - 1

    def lose_the_answer() -> None:
        raise NoAnswer(SILENCE)

    second.on_submit = lose_the_answer
    world.ask("camel")
    world.report(here)
    world.tick()
    second.on_submit = lambda: None
    for _ in range(40):
        world.report(here)
        world.tick(2)
    here.refresh_from_db()
    assert here.state == "up" and second.cancelled == [here.job_id]
    assert pilot_of("other").job_id == (here.job_id or 0) + 1
