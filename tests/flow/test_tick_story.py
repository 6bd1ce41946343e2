"""Rows that tell what befell the fleet, and whose fault a refused job is, where a test has to move the clock."""

from __future__ import annotations

import dataclasses

import pytest
import redis as redis_library

from portal.catalog.models import Profile
from portal.fleet.models import Decision, PoolState, ProfileState, Replica
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def story() -> list[tuple[str, str]]:
    return list(Decision.objects.order_by("id").values_list("kind", "reason"))


def another_profile(world: World) -> Profile:
    """Make a dearer profile, which is only used where the first one is held."""
    other = Profile.objects.create(
        name="other", partition="gpu", gpu_type="a100", gpus=2, mem_mb=16_000, max_pilots=2, cost=100.0
    )
    world.pool.profiles.add(other)
    return other


def test_an_end_that_nobody_asked_for_is_told_with_what_becomes_of_the_work(world: World) -> None:
    pilot = world.hot_pilot()
    assert pilot.job_id
    world.slurm.set(pilot.job_id, "NODE_FAIL")
    world.tick(10)
    said = f"Job {pilot.job_id}: its node failed. It hosted llama on gpu01."
    assert ("ended", said) in story()


def test_an_end_that_was_asked_for_has_its_row_already(world: World) -> None:
    pilot = world.hot_pilot()
    world.tick(200)  # beyond its keep-alive
    world.report(pilot, "stopped")
    for _ in range(10):
        world.tick(60)
    world.says_ending(pilot)
    world.tick()
    pilot.refresh_from_db()
    assert pilot.state == "ended"
    assert "ended" not in [kind for kind, _ in story()]


def test_what_slurm_refuses_for_good_is_the_profiles_fault_where_another_one_is_left(world: World) -> None:
    other = another_profile(world)
    world.slurm.refuse = "Requested time limit is invalid (missing or exceeds some limit)"
    world.ask()
    world.tick()
    world.slurm.refuse = ""
    assert ProfileState.objects.get(profile=world.profile).reason.startswith(
        "Slurm refused the job: Requested time"
    )
    world.tick()
    assert world.pilot().profile == other
    assert not PoolState.objects.filter(failures__gt=0).exists()
    assert [kind for kind, _ in story()] == ["launch", "hold_profile", "launch"]


def test_what_slurm_refuses_for_the_hour_holds_no_profile(world: World) -> None:
    another_profile(world)
    world.slurm.refuse = (
        "Job violates accounting/QOS policy (job submit limit, user's size and/or time limits)"
    )
    world.ask()
    world.tick()
    assert not ProfileState.objects.filter(latched_at__isnull=False).exists()


def test_a_job_that_never_starts_is_the_profiles_fault_where_another_one_is_left(world: World) -> None:
    other = another_profile(world)
    world.ask()
    world.tick()
    world.slurm.set(world.pilot().job_id or 0, "PENDING", "PartitionTimeLimit")
    world.tick()
    world.tick()
    assert world.pilot().profile == other
    assert not PoolState.objects.filter(failures__gt=0).exists()
    assert [kind for kind, _ in story()] == ["launch", "cancel", "hold_profile", "launch"]


def test_a_failure_is_told_once_and_not_at_every_tick(world: World) -> None:
    world.config = dataclasses.replace(world.config, launch_backoff_s=20.2)
    for number in range(8):
        world.slurm.refuse = "it is Tuesday"
        world.now += 0.1234567 * number
        world.ask()
        world.tick()
        world.slurm.refuse = ""
        for _ in range(4):
            world.tick(2.1)
        assert [kind for kind, _ in story()] == ["launch", "hold"]
        Decision.objects.all().delete()
        Replica.objects.all().delete()
        PoolState.objects.all().delete()


def test_a_silence_of_slurm_has_a_beginning_and_an_end(world: World) -> None:
    world.hot_pilot()
    for silent in ("squeue: no answer within 20 s", "squeue: connection refused", ""):
        world.slurm.silent = silent
        world.tick()
        world.tick()
    told = [(kind, reason) for kind, reason in story() if kind.startswith("slurm")]
    assert [kind for kind, _ in told] == ["slurm_silent", "slurm_answers"]
    assert "no answer within 20 s" in told[0][1]
