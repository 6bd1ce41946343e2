"""Two models that take turns on one GPU by sleeping: what the loop wants, and what the rows say of it."""

from __future__ import annotations

import dataclasses

import pytest
import redis as redis_library

from portal.catalog.models import Pool
from portal.db.transaction import moving
from portal.fleet.models import Decision, GpuClaim, Pilot, Replica
from portal.ledger import transitions as ledger
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    """Make one job with one GPU, and two models that may sleep."""
    made = World(redis)
    made.config = dataclasses.replace(made.config, switch_after_s=0.0, min_residency_s=0.0)
    type(made.profile).objects.update(gpus=1, max_pilots=1)
    made.add_pool("qwen")
    Pool.objects.update(sleep_level=1, mem_mb=4_000, asleep_mem_mb=1_000)
    return made


def of(pool: str) -> Replica:
    return Replica.objects.exclude(state__in=("stopped", "failed")).get(pool=pool)


def slept(world: World) -> Pilot:
    """Put llama to sleep; qwen is hot on its GPU."""
    pilot = world.hot_pilot()
    world.report(pilot, can_sleep=1, idle_for_s=500)
    asked = world.ask("qwen")
    world.tick(30)
    assert (of("llama").state, of("llama").sleep_level) == ("draining", 1)
    world.report(pilot, "asleep")
    assert of("llama").state == "asleep"
    assert not GpuClaim.objects.exists()
    world.tick()
    assert of("qwen").gpu_indices == [0]
    world.report(pilot, llama="asleep", qwen="hot", can_sleep=1)
    assert of("qwen").state == "hot"
    with moving() as cur:
        ledger.cancel(cur, [asked], world.at(), "answered")
    return pilot


def test_a_resident_that_can_sleep_makes_room_by_sleeping(world: World) -> None:
    pilot = slept(world)
    (made,) = Decision.objects.filter(kind="drain_replica", replica=of("llama").pk)
    assert "qwen" in made.reason
    assert Pilot.objects.exclude(state="ended").get() == pilot


def test_it_wakes_on_its_own_gpu_when_it_is_wanted_and_the_other_has_left(world: World) -> None:
    pilot = slept(world)
    sleeper = of("llama").pk
    world.tick(60)
    world.report(pilot, llama="asleep", qwen="hot", idle_for_s=500, can_sleep=1)
    world.ask("llama")
    world.tick(30)
    assert of("qwen").state == "draining"
    world.report(pilot, "asleep")
    world.tick()
    woken = of("llama")
    assert (woken.pk, woken.state, woken.gpu_indices) == (sleeper, "starting", [0])
    assert GpuClaim.objects.get().replica_id == sleeper
    assert Decision.objects.filter(kind="wake_replica", replica=sleeper).count() == 1


def test_one_whose_engine_was_not_seen_to_sleep_is_stopped(world: World) -> None:
    pilot = world.hot_pilot()
    world.report(pilot, can_sleep=0, idle_for_s=500)
    world.ask("qwen")
    world.tick(30)
    assert (of("llama").state, of("llama").sleep_level) == ("draining", 0)
