"""Interest outlives callers: a launch is not given up because those who asked for it have left, for now or for good."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis as redis_library

from portal.db.transaction import moving
from portal.ledger import repeats
from portal.ledger import transitions as ledger
from portal.ledger.models import Request
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)

GATEWAY = "gw-1"


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def tick(world: World, after_s: float) -> None:
    """Tick with a gateway that lives."""
    with moving() as cur:
        ledger.heartbeat(cur, GATEWAY, "gateway", world.at() + timedelta(seconds=after_s))
    world.tick(after_s)


def test_a_launch_outlives_the_callers_it_was_made_for(world: World) -> None:
    """Its place in Slurm's line was hard to come by, and somebody will ask again."""
    request = world.ask()
    world.tick()
    pilot = world.pilot()
    with moving() as cur:
        ledger.cancel(cur, [request], world.at(), "its client left")
    world.tick(world.config.pilot_idle_s + 1)
    pilot.refresh_from_db()
    assert pilot.state in ("submitted", "pending") and world.slurm.cancelled == []
    world.start(pilot)
    world.report(pilot)
    world.tick(1)
    assert world.replica(pilot).state == "hot"


def test_a_launch_that_nobody_has_wanted_for_as_long_as_its_model_would_have_been_kept_is_withdrawn(
    world: World,
) -> None:
    request = world.ask()
    world.tick()
    with moving() as cur:
        ledger.cancel(cur, [request], world.at(), "its client left")
    world.tick(world.pool.keep_alive_s - 1)
    assert world.slurm.cancelled == []
    world.tick(2)
    assert world.slurm.cancelled == [101]


def test_a_ticket_is_demand_while_its_client_is_away(world: World) -> None:
    """A launch that fails meanwhile is made again; once the ticket has expired, nobody wants anything."""
    request = world.ask(lane="held", holder=GATEWAY)
    until = world.at() + timedelta(seconds=100)
    with moving() as cur:
        repeats.apply(cur, repeats.Away(request, GATEWAY, 1, "digest", until), world.at())
    tick(world, 2)
    failed = world.pilot()
    assert failed.job_id is not None
    world.slurm.set(failed.job_id, "FAILED")
    for _ in range(4):
        tick(world, 10)
    assert len(world.slurm.submitted) == 2
    assert Request.objects.get(pk=request).state == "queued"
    with moving() as cur:
        assert repeats.expire(cur, until) == [request]
    again = world.pilot()
    assert again.job_id is not None
    world.slurm.set(again.job_id, "FAILED")
    for _ in range(10):
        tick(world, 30)
    assert len(world.slurm.submitted) == 2
