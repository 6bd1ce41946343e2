"""test_launch: a model is started once, whatever holds it back, and the command says what came of it."""

from __future__ import annotations

import pytest
import redis as redis_library

from portal.accounts.models import User
from portal.catalog.models import Model, Pool
from portal.fleet.models import Cluster, Command, Decision, Pilot, PoolState, Replica
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def begun(world: World) -> Command:
    command = world.give(
        Command.Kind.TEST_LAUNCH, pool=world.pool, created_by=User.objects.get_or_create(username="ada")[0]
    )
    Command.objects.filter(pk=command.pk).update(created_at=world.at())
    world.tick(1)
    command.refresh_from_db()
    return command


def after(world: World, command: Command, seconds: float = 1.0) -> Command:
    world.tick(seconds)
    command.refresh_from_db()
    return command


@pytest.mark.parametrize("held_by", ["nothing", "latch", "pause", "paused fleet"])
def test_it_is_started_once_whatever_holds_it_back(world: World, held_by: str) -> None:
    if held_by == "latch":
        PoolState.objects.create(
            pool=world.pool, failures=3, latched_at=world.at(), reason="It broke thrice."
        )
    Pool.objects.update(paused=held_by == "pause")
    Cluster.objects.update_or_create(
        name=world.config.cluster, defaults={"paused": held_by == "paused fleet"}
    )
    command = begun(world)
    assert command.state == "pending"
    assert command.result.startswith("llama is not loaded yet. Its Slurm job 101 was submitted at ")
    row = Decision.objects.get(kind="launch")
    assert row.reason == "ada asked to start llama once, to see whether it works."
    assert row.inputs["command"] == command.pk
    for _ in range(3):
        world.tick()
    assert Pilot.objects.count() == 1 and world.replica(world.pilot()).state == "wanted"
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot)
    after(world, command)
    assert command.state == "done" and command.result.startswith(
        "llama works. It was ready 6 s after the start"
    )
    assert "let go after its keep-alive of 100 s" in command.result
    assert ("the command relaunch lets requests" in command.result) == (held_by == "latch")
    assert ("the command resume lets requests" in command.result) == (held_by == "pause")
    world.tick(101)
    world.report(pilot, idle_for_s=103)
    world.tick(1)
    assert world.replica(pilot).state == "draining"


def test_a_failure_is_told_in_the_engines_words(world: World) -> None:
    command = begun(world)
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot, "failed")
    after(world, command)
    assert command.state == "failed"
    assert command.result == "llama did not start: it broke\nTraceback"


def test_a_job_that_slurm_refuses_is_a_failure(world: World) -> None:
    world.slurm.refuse = "Invalid account"
    command = after(world, begun(world))
    assert command.state == "failed" and "Slurm refused the job: Invalid account" in command.result


def test_a_test_that_someone_cancels_says_so(world: World) -> None:
    command = begun(world)
    world.give(Command.Kind.CANCEL, pilot=world.pilot())
    after(world, command)
    after(world, command)
    assert command.state == "failed"
    assert command.result == "llama was ended before it was ready: Someone asked to cancel its job."


def test_a_model_that_is_hot_needs_no_test(world: World) -> None:
    world.hot_pilot()
    command = begun(world)
    assert command.state == "done" and command.result.startswith("llama works. It was ready already, since ")
    assert Replica.objects.count() == 1


def test_without_room_it_waits_and_makes_nobody_leave(world: World) -> None:
    world.profile.gpus, world.profile.max_pilots = 1, 1
    world.profile.save()
    pilot = world.hot_pilot()
    other = world.add_pool("other")
    command = world.give(Command.Kind.TEST_LAUNCH, pool=other)
    Command.objects.filter(pk=command.pk).update(created_at=world.at())
    for _ in range(5):
        world.report(pilot, idle_for_s=50)
        after(world, command)
    assert command.state == "pending" and command.result
    assert world.replica(pilot).state == "hot"
    world.report(pilot, idle_for_s=50)
    after(world, command, 901)
    assert command.state == "refused"
    assert command.result.startswith("Within 15 min there was no room to test other: ")


def test_a_restarted_loop_finds_what_it_began(world: World) -> None:
    command = begun(world)
    Command.objects.filter(pk=command.pk).update(result="")
    after(world, command)
    assert Pilot.objects.count() == 1 and command.result.startswith("llama is not loaded yet.")


def test_a_pool_without_a_model_is_refused(world: World) -> None:
    Model.objects.update(enabled=False)
    assert begun(world).result == "No enabled model belongs to llama: enable one first."
    assert not Pilot.objects.exists()


def test_while_slurm_is_silent_it_waits(world: World) -> None:
    world.tick(1)
    world.slurm.silent = "squeue: timed out"
    command = begun(world)
    assert (command.state, Pilot.objects.count()) == ("pending", 0)
    assert "Slurm does not answer" in command.result
    world.slurm.silent = ""
    after(world, command)
    assert Pilot.objects.count() == 1
