"""What is kept for its owner is kept for so long and no longer (invariant 14)."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
import redis as redis_library
from django.utils import timezone

from portal.ledger.models import Payload, Request
from portal.redis import keys
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def _ended(world: World, days: float) -> None:
    request = world.ask()
    Request.objects.filter(id=request).update(
        state="cancelled", ended_at=timezone.now() - timedelta(days=days)
    )


def test_results_older_than_the_setting_are_erased_by_the_tick_once_an_hour(world: World) -> None:
    world.config = replace(world.config, result_keep_days=7)
    world.now = timezone.now().timestamp()
    _ended(world, 8)
    _ended(world, 6)
    world.ask()
    world.tick()
    assert Payload.objects.count() == 2
    _ended(world, 9)
    world.tick()
    assert Payload.objects.count() == 3, "it was looked at less than an hour ago"
    world.redis.delete(keys.RETENTION.of())
    world.tick()
    assert Payload.objects.count() == 2
    assert Request.objects.count() == 4, "the row stays, for the accounts"
