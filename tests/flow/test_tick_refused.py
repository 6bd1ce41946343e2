"""A cancellation that Slurm refuses: told of that job once, and nothing else waits for it."""

from __future__ import annotations

import uuid

import pytest
import redis as redis_library

from portal.fleet.models import Command, Decision, Pilot
from scheduler.act import refusals
from tests.flow.test_tick_realities import portal_listens
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def told(kind: str = "cancel_refused") -> list[str]:
    return list(Decision.objects.filter(kind=kind).order_by("id").values_list("reason", flat=True))


def nobody_is_told_of_silence(world: World) -> None:
    assert not told("slurm_silent") and not told("slurm_answers")
    assert world.way().error == ""


def until_denied(world: World) -> None:
    """Let the agent be silent until the loop gives its job up, and Slurm refuses to cancel it."""
    for _ in range(70):
        portal_listens(world)
        world.tick(10)
        if world.slurm.denied:
            return
    raise AssertionError("nobody asked to cancel it")


def test_a_job_that_may_not_be_cancelled_holds_nobody_else_and_is_told_once(world: World) -> None:
    pilot = world.hot_pilot()
    assert pilot.job_id is not None
    world.slurm.forbidden.add(pilot.job_id)
    until_denied(world)
    cancels = len(told("cancel"))
    world.add_pool("camel")
    world.ask("camel")
    world.tick()
    assert Pilot.objects.exclude(state="ended").count() == 2  # launched in the tick after, by the same way
    for _ in range(5):
        portal_listens(world)
        world.tick(10)
    [said] = told()
    assert said.startswith(f"Slurm refused to cancel job {pilot.job_id}: Access/permission denied. Cancel it")
    assert world.slurm.denied == 1 and len(told("cancel")) == cancels == 1
    nobody_is_told_of_silence(world)


def test_it_is_asked_again_in_an_hour_without_a_second_row(world: World) -> None:
    job_id = world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    world.slurm.forbidden.add(job_id)
    for after_s, denied in ((2, 0), (61, 1), (refusals.AGAIN_S - 1, 1), (2, 2), (61, 2)):
        world.tick(after_s)
        assert world.slurm.denied == denied
    assert len(told()) == 1
    world.slurm.forbidden.clear()
    world.tick(refusals.AGAIN_S)
    assert world.slurm.cancelled == [job_id]


@pytest.mark.parametrize("kind", [Command.Kind.CANCEL, Command.Kind.DRAIN])
def test_a_command_says_that_slurm_refused_and_asks_each_time(world: World, kind: Command.Kind) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    world.slurm.forbidden.add(pilot.job_id or 0)
    first = world.give(kind, pilot=pilot)
    world.tick()
    second = world.give(Command.Kind.CANCEL, pilot=pilot)
    world.tick()
    for command in (first, second):
        command.refresh_from_db()
        assert command.state == "refused"
        assert command.result.startswith(
            f"Slurm refused to cancel job {pilot.job_id}: Access/permission denied"
        )
    assert world.slurm.denied == 2 and len(told()) == 1
    nobody_is_told_of_silence(world)


def test_unknown_jobs_that_may_not_be_cancelled_are_told_once_and_the_others_go(world: World) -> None:
    kept, gone = (
        world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING") for _ in range(2)
    )
    world.slurm.forbidden.add(kept)
    world.tick()
    for _ in range(4):
        world.tick(61)
    assert world.slurm.cancelled == [gone]
    [said] = told()
    assert f"job {kept}" in said and world.slurm.denied == 1
    command = world.give(Command.Kind.REJECT, args={"job_id": kept})
    world.tick()
    command.refresh_from_db()
    assert command.state == "refused" and command.result == said
    nobody_is_told_of_silence(world)


def test_a_second_job_of_one_name_that_may_not_be_cancelled_is_told_once(world: World) -> None:
    pilot = world.hot_pilot()
    second = world.slurm.add(pilot.job_name, "RUNNING")
    world.slurm.forbidden.add(second)
    for _ in range(3):
        world.report(pilot)
        world.tick()
    [said] = told()
    assert f"job {second}" in said and world.slurm.denied == 1
    nobody_is_told_of_silence(world)
