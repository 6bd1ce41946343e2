"""What operators see over time: one sample a minute, of GPUs, queue and waits; old ones are forgotten."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis as redis_library

from portal.fleet.models import Sample
from portal.ledger.models import Request
from scheduler.maintenance import samples
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    made = World(redis)
    made.now = made.now // 60 * 60  # a full minute
    return made


def gpus(row: Sample) -> tuple[int, ...]:
    return row.busy, row.ready, row.loading, row.empty, row.asked


def next_minute(world: World) -> Sample:
    world.tick(60)
    return Sample.objects.latest("at")


def test_a_minute_has_one_sample_however_often_the_loop_looks(world: World) -> None:
    for _ in range(3):
        world.tick(1)
    assert Sample.objects.count() == 1
    next_minute(world)
    first, second = Sample.objects.order_by("at")
    assert second.at - first.at == timedelta(minutes=1)


def test_gpus_are_counted_by_what_they_do(world: World) -> None:
    world.ask()
    world.tick()
    assert gpus(next_minute(world)) == (0, 0, 0, 0, 2), "asked of Slurm"
    pilot = world.pilot()
    world.start(pilot)
    assert gpus(next_minute(world)) == (0, 0, 1, 1, 0), "one is loaded, one has nothing to do"
    world.report(pilot, in_flight=3)
    world.tick(1)
    world.now += 58
    world.report(pilot, in_flight=3)
    assert gpus(next_minute(world))[0] == 0, "what was heard a minute ago says nothing of now"
    world.now += 59
    world.report(pilot, in_flight=3)
    world.tick(1)
    assert gpus(Sample.objects.latest("at")) == (1, 0, 0, 1, 0)


def test_the_queue_and_the_waits_of_those_who_were_served(world: World) -> None:
    for _ in range(2):
        world.ask()
    served = [world.ask() for _ in range(3)]
    for request, wait_s in zip(served, (1, 3, 11), strict=True):
        Request.objects.filter(id=request).update(
            state="done", attempt=1, ended_at=world.at(), granted_at=world.at() + timedelta(seconds=wait_s)
        )
    row = next_minute(world)
    assert (row.queued_held, row.queued_async, row.queued_batch, row.running, row.parked) == (0, 2, 0, 0, 0)
    assert row.wait_p50_s == 3 and row.wait_p95_s is not None and 10 < row.wait_p95_s < 11
    assert row.oldest_s == 60
    world.now += samples.WAITS_OVER.total_seconds()
    assert next_minute(world).wait_p50_s is None, "that was long ago"


def test_old_samples_are_forgotten(world: World) -> None:
    world.tick()
    Sample.objects.update(at=world.at() - samples.KEPT - timedelta(minutes=2))
    next_minute(world)
    assert Sample.objects.count() == 1
