"""Silence, accounting, bad nodes and unknown jobs, where a test has to move the clock."""

from __future__ import annotations

import dataclasses
import uuid
from datetime import timedelta

import pytest
import redis as redis_library

from gpuworker.wire import REFUSED
from portal.catalog.models import Profile
from portal.fleet.models import BadNode, Decision, Pilot, PoolState, Replica
from portal.ledger.models import Holder
from scheduler.commands.outcomes import Refused
from scheduler.commands.unknown_jobs import adopt
from scheduler.observe import unknown_jobs
from scheduler.slurm.protocol import UsageInfo
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def portal_listens(world: World) -> None:
    Holder.objects.update_or_create(
        pk="gateway", defaults={"kind": "gateway", "seen_at": world.at() + timedelta(seconds=2)}
    )


def kinds() -> list[str]:
    return list(Decision.objects.order_by("id").values_list("kind", flat=True))


def test_an_agent_is_silent_only_while_it_could_have_been_heard(world: World) -> None:
    pilot = world.hot_pilot()
    for _ in range(20):  # the portal that takes reports is away
        world.tick(10)
    assert "silent" not in kinds()
    for _ in range(20):  # it is back, and others could be heard
        portal_listens(world)
        world.tick(2)
    assert kinds()[-1] == "silent"
    world.report(pilot)
    portal_listens(world)
    world.tick(1)
    assert kinds()[-1] == "heard_again"


def test_a_job_that_leaves_by_itself_takes_no_replica(world: World) -> None:
    pilot = world.hot_pilot()
    # Slurm told it to go: its model has stopped, and it has not said its last word.
    world.report(pilot, "stopped", draining=True)
    world.ask()
    world.tick(1)
    assert kinds()[-1] == "launch"
    assert not Replica.objects.filter(pilot=pilot, state="wanted").exists()


def test_a_silence_that_lasts_ends_the_job(world: World) -> None:
    pilot = world.hot_pilot()
    for _ in range(70):
        portal_listens(world)
        world.slurm.set(pilot.job_id or 0, "RUNNING")
        world.tick(10)
        if world.slurm.cancelled:
            break
    assert world.slurm.cancelled == [pilot.job_id]
    assert Decision.objects.filter(kind="cancel", pilot=pilot.pk, reason__contains="has been silent").exists()


def test_accounting_tells_why_a_job_vanished(world: World) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    world.tick()
    assert pilot.job_id
    job_id = pilot.job_id
    world.slurm.usage = lambda job_ids: {job_id: UsageInfo(job_id, "PREEMPTED", "0:0", 5, "gpu01")}  # type: ignore[method-assign]
    world.slurm.vanish(job_id)
    world.tick(100)
    pilot.refresh_from_db()
    assert pilot.end_reason == (
        f"Job {job_id} is gone; accounting says: Slurm gave its GPUs to a job of higher priority."
    )
    state = PoolState.objects.filter(pool="llama").first()
    assert state is None or state.failures == 0


def test_a_job_leaves_out_bad_nodes_until_they_are_taken_back(world: World) -> None:
    until = world.at() + timedelta(seconds=100)
    BadNode.objects.create(cluster="main", node="gpu07", failures=2, excluded_until=until, reason="it broke")
    world.ask()
    world.tick()
    assert "#SBATCH --exclude=gpu07\n" in world.slurm.scripts[-1]
    world.tick(101)
    assert kinds()[-1] == "readmit_node"
    world.slurm.cancel([world.pilot().job_id or 0])
    for _ in range(5):
        world.tick(60)
    assert len(world.slurm.scripts) > 1
    assert "--exclude" not in world.slurm.scripts[-1]


def test_an_unknown_job_is_adopted_once_and_only_under_a_profile_that_fits(world: World) -> None:
    cluster_job = world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    world.tick()
    [found] = unknown_jobs.of(world.site(), "main", world.now)
    assert found.job.info.job_id == cluster_job
    with pytest.raises(Refused, match="no profile 'nope'"):
        adopt(world.actor(), "main", cluster_job, "nope", "root")
    assert "took job" in adopt(world.actor(), "main", cluster_job, "", "root")
    pilot = Pilot.objects.get()
    assert (pilot.state, pilot.job_id, pilot.profile.name) == ("submitted", cluster_job, "gpu")
    with pytest.raises(Refused, match="no unknown job"):
        adopt(world.actor(), "main", cluster_job, "", "root")


def test_an_adopted_job_has_the_nodes_that_slurm_names(world: World) -> None:
    Profile.objects.update(nodes=2)
    name = f"berth-{world.config.instance}-"
    wide, unclear, wider = (
        world.slurm.add(f"{name}{uuid.uuid4()}", "PENDING", count) for count in (2, None, 3)
    )
    world.tick()
    assert "took job" in adopt(world.actor(), "main", wide, "", "root")
    assert list(Pilot.objects.values_list("nodes", "gpus")) == [(2, 4)]
    with pytest.raises(Refused, match="does not say how many nodes"):
        adopt(world.actor(), "main", unclear, "", "root")
    with pytest.raises(Refused, match="has 3 nodes, and jobs of gpu have 2 at most"):
        adopt(world.actor(), "main", wider, "", "root")


def test_an_unknown_job_with_the_number_of_a_live_pilot_is_not_adopted_yet(world: World) -> None:
    world.ask()
    world.tick()
    world.slurm.lose_its_memory()
    again = world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    assert again == world.pilot().job_id
    world.tick()
    with pytest.raises(Refused, match=f"gave the number {again} twice"):
        adopt(world.actor(), "main", again, "", "root")


def test_an_agent_that_speaks_and_is_not_reached_is_not_cancelled_for_its_silence(world: World) -> None:
    world.config = dataclasses.replace(world.config, register_s=30)
    world.ask()
    world.tick()
    pilot = world.pilot()
    assert pilot.job_id
    world.slurm.set(pilot.job_id, "RUNNING")
    world.slurm.listed = [dataclasses.replace(job, started_at=world.now) for job in world.slurm.listed]
    for _ in range(12):
        portal_listens(world)
        # It tries to register, and the portal does not reach its ingress.
        Holder.objects.update_or_create(
            pk=str(pilot.pk), defaults={"kind": Holder.Kind.PILOT, "seen_at": world.at()}
        )
        world.tick(4)
    assert not world.slurm.cancelled
    for _ in range(12):
        portal_listens(world)
        world.tick(4)
        if world.slurm.cancelled:
            break
    assert world.slurm.cancelled == [pilot.job_id]


def test_what_an_agent_says_of_why_it_cannot_serve_counts_as_a_failed_launch_and_is_told(
    world: World,
) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    why = "The portal does not reach its ingress on gpu01 (http://10.0.0.7:20000: no route)."
    Pilot.objects.filter(pk=pilot.pk).update(
        agent_job_id=pilot.job_id, registered_at=world.at(), said_ending=f"{REFUSED}{why}"
    )
    world.tick()
    pilot.refresh_from_db()
    assert (pilot.state, pilot.end_reason) == ("ended", f"Job {pilot.job_id} could not serve: {why}")
    state = PoolState.objects.get(pool="llama")
    assert state.failures == 1 and why in state.reason
