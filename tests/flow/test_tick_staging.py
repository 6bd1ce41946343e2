"""Weights of a model that waits for room are wished onto the node, once, and only where there is a disk for them."""

from __future__ import annotations

import pytest
import redis as redis_library

from portal.catalog.models import Model, Profile
from portal.fleet.models import Decision, Pilot
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    """Make one job with one GPU, which llama keeps busy while qwen waits."""
    made = World(redis)
    Profile.objects.update(gpus=1, max_pilots=1, scratch="/local")
    made.add_pool("qwen")
    pilot = made.hot_pilot()
    made.report(pilot, in_flight=1)
    made.ask("qwen")
    return made


def test_it_is_wished_once_and_the_row_says_why(world: World) -> None:
    for _ in range(3):
        world.tick()
    assert Pilot.objects.get().stage_wish == "qwen"
    (made,) = Decision.objects.filter(kind="stage")
    assert (made.pool, made.reason) == (
        "qwen", "qwen waits for room: its weights are copied to the node meanwhile.",
    )  # fmt: skip


def test_a_model_without_a_folder_has_nothing_to_copy(world: World) -> None:
    Model.objects.filter(pool="qwen").update(path="")
    world.tick()
    assert Pilot.objects.get().stage_wish == ""
    assert not Decision.objects.filter(kind="stage").exists()


def test_a_profile_without_scratch_has_nowhere_to_copy_to(world: World) -> None:
    Profile.objects.update(scratch="")
    world.tick()
    assert Pilot.objects.get().stage_wish == ""
