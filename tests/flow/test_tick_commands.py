"""What people ask of the fleet, through rows."""

from __future__ import annotations

import pytest
import redis as redis_library

from portal.accounts.models import User
from portal.db.transaction import moving
from portal.fleet.models import Command, Decision, Pilot, PilotLog
from portal.ledger import transitions as ledger
from portal.redis import keys
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def done(command: Command) -> tuple[str, str]:
    command.refresh_from_db()
    return command.state, command.result


def test_a_drained_pilot_says_who_asked(world: World) -> None:
    pilot = world.hot_pilot()
    command = world.give(Command.Kind.DRAIN, pilot=pilot, created_by=User.objects.create_user("ada"))
    world.tick(1)
    pilot.refresh_from_db()
    assert (pilot.state, world.replica(pilot).state) == ("draining", "draining")
    assert done(command) == ("done", "ada asked to drain it.")
    assert Decision.objects.latest("id").reason == "ada asked to drain it."
    again = world.give(Command.Kind.DRAIN, pilot=pilot)
    world.tick(1)
    assert done(again) == ("refused", "It has moved on: nothing was left to do.")


def test_a_replica_can_be_drained_alone(world: World) -> None:
    pilot = world.hot_pilot()
    replica = world.replica(pilot)
    world.redis.hset(keys.ROUTES.of("llama"), str(replica.pk), "{}")
    command = world.give(Command.Kind.DRAIN, replica=replica)
    world.tick(1)
    assert not world.redis.exists(keys.ROUTES.of("llama"))
    pilot.refresh_from_db()
    assert (pilot.state, world.replica(pilot).state) == ("up", "draining")
    assert done(command)[0] == "done"


def test_cancelling_ends_a_job_that_waits_and_one_that_runs(world: World) -> None:
    world.ask_and_forget()
    waiting = world.pilot()
    command = world.give(Command.Kind.CANCEL, pilot=waiting)
    world.tick(1)
    waiting.refresh_from_db()
    assert (waiting.state, done(command)[0]) == ("ended", "done")
    assert world.slurm.forgotten == [f"{world.config.spool}/secret/{waiting.pk}.json"]
    running = world.hot_pilot()
    world.give(Command.Kind.CANCEL, pilot=running)
    world.tick(1)
    assert world.slurm.cancelled == [waiting.job_id, running.job_id]
    world.tick(10)
    running.refresh_from_db()
    assert running.state == "ended"


def test_a_cancellation_waits_for_slurm_to_answer(world: World) -> None:
    world.ask_and_forget()
    pilot = world.pilot()
    world.slurm.silent = "scancel: no answer"
    command = world.give(Command.Kind.CANCEL, pilot=pilot)
    for _ in range(3):
        world.tick()
    assert done(command)[0] == "pending"
    assert Pilot.objects.get().state in ("submitted", "pending")
    assert not Decision.objects.filter(kind="cancel").exists()
    world.slurm.silent = ""
    world.tick()
    assert done(command)[0] == "done"
    assert Pilot.objects.get().state == "ended"


def test_a_pause_starts_nothing_until_it_ends(world: World) -> None:
    for target in ({}, {"pool": world.pool}):
        world.give(Command.Kind.PAUSE, **target)
        world.tick()
        request = world.ask()
        world.tick()
        assert not Pilot.objects.exclude(state="ended").exists()
        world.give(Command.Kind.RESUME, **target)
        world.tick()
        world.give(Command.Kind.CANCEL, pilot=world.pilot())
        with moving() as cur:
            ledger.cancel(cur, [request], world.at(), "left")
        world.tick()


def test_a_wake_makes_a_model_ready_and_keeps_it_so_for_the_time_asked(world: World) -> None:
    command = world.give(Command.Kind.WAKE, pool=world.pool, args={"for_s": 1000})
    world.tick()
    assert done(command)[0] == "done"
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot)
    world.tick(500)
    world.report(pilot, idle_for_s=500)
    world.tick(1)
    assert world.replica(pilot).state == "hot"
    world.tick(500)
    world.report(pilot, idle_for_s=1000)
    world.tick(1)
    assert world.replica(pilot).state == "draining"


def test_a_log_comes_from_the_agent_or_else_from_the_spool(world: World) -> None:
    pilot = world.hot_pilot()
    command = world.give(Command.Kind.LOG, pilot=pilot)
    world.tick(1)
    assert done(command) == ("pending", "The agent has been asked.")
    PilotLog.objects.create(pilot=pilot, text="from the agent", at=world.at())
    world.tick(1)
    assert done(command) == ("done", "14 characters of the log came from the agent.")
    again = world.give(Command.Kind.LOG, pilot=pilot)
    world.now = again.created_at.timestamp() + 11
    PilotLog.objects.all().delete()
    world.tick(1)
    assert "from the spool" in done(again)[1]
    assert str(pilot.pk) in PilotLog.objects.get(pilot=pilot).text


def test_a_command_without_its_target_is_refused_with_a_reason(world: World) -> None:
    commands = [world.give(kind) for kind in (Command.Kind.DRAIN, Command.Kind.RELAUNCH, Command.Kind.LOG)]
    world.tick()
    assert [done(command)[1] for command in commands] == [
        "It names no pilot.", "It names no pool.", "It names no pilot.",
    ]  # fmt: skip
