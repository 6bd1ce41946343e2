"""Jobs that live: silence is not absence, orphans, ends, what goes back, and letting go."""

from __future__ import annotations

import uuid

import pytest
import redis as redis_library
from redis.backoff import NoBackoff
from redis.retry import Retry

from portal.db.transaction import moving
from portal.fleet.models import Command, Decision, FleetEvent, Pilot, PilotLog, PoolState, Replica
from portal.ledger import transitions as ledger
from portal.ledger.models import Request
from portal.redis import keys
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def test_silence_kills_nothing_however_long_it_lasts(world: World) -> None:
    pilot = world.hot_pilot()
    world.slurm.silent = "squeue: no answer within 20 s"
    world.redis.flushall()
    for _ in range(5):
        world.tick(100)
    pilot.refresh_from_db()
    assert pilot.state == "up"
    assert world.replica(pilot).state == "hot"
    assert world.slurm.cancelled == []


def test_a_pilot_that_reports_is_alive_whatever_the_listing_says(world: World) -> None:
    pilot = world.hot_pilot()
    assert pilot.job_id
    world.slurm.vanish(pilot.job_id)
    for _ in range(10):
        world.report(pilot, in_flight=1)
        world.tick(10)
    pilot.refresh_from_db()
    assert pilot.state == "up"


def test_a_job_that_slurm_forgot_and_that_reports_nothing_has_ended_and_gives_its_rows_back(
    world: World,
) -> None:
    pilot = world.hot_pilot()
    request = world.ask()
    with moving() as cur:
        (row,) = ledger.claim(
            cur, holder=str(pilot.pk), pool="llama", replica=world.replica(pilot).pk, room=1, now=world.at()
        )
    assert pilot.job_id
    world.slurm.vanish(pilot.job_id)
    world.tick(5)
    pilot.refresh_from_db()
    assert pilot.state == "up"  # it reported a moment ago
    world.redis.delete(keys.SYNC.of(pilot.pk))
    world.tick(5)
    pilot.refresh_from_db()
    assert pilot.state == "up"  # a flushed Redis is no answer either: Slurm saw it less than alive_s ago
    world.tick(40)
    pilot.refresh_from_db()
    assert pilot.state == "ended"
    back = Request.objects.get(pk=request)
    assert (back.state, back.holder, back.attempt, back.crashes) == ("queued", None, row.attempt, 0)
    assert world.slurm.forgotten == [f"{world.config.spool}/secret/{pilot.pk}.json"]
    # The work is still there: it gets a new job.
    assert world.pilot().pk != pilot.pk


def test_redis_without_an_answer_ends_no_pilot_that_slurm_forgot(world: World) -> None:
    pilot = world.hot_pilot()
    assert pilot.job_id
    world.slurm.vanish(pilot.job_id)
    good = world.redis
    world.redis = redis_library.Redis(host="127.0.0.1", port=1, retry=Retry(NoBackoff(), 0))
    world.tick(1000)
    pilot.refresh_from_db()
    assert pilot.state == "up"
    world.redis.close()
    world.redis = good
    world.tick(1000)
    pilot.refresh_from_db()
    assert pilot.state == "ended"


def test_an_ended_job_frees_its_routes_gpus_and_log_at_once(world: World) -> None:
    pilot = world.hot_pilot()
    replica = world.replica(pilot)
    key = keys.ROUTES.of("llama")
    world.redis.hset(key, str(replica.pk), "{}")
    world.tick(1)
    assert world.redis.hkeys(key) == [str(replica.pk).encode()]
    assert pilot.job_id
    world.slurm.set(pilot.job_id, "NODE_FAIL")
    world.tick(10)
    pilot.refresh_from_db()
    replica.refresh_from_db()
    assert (pilot.state, pilot.end_reason) == ("ended", f"Job {pilot.job_id}: its node failed.")
    assert replica.state == "stopped"
    assert world.redis.hkeys(key) == []
    assert "the end of" in PilotLog.objects.get(pilot=pilot).text


def test_a_job_that_dies_while_loading_is_retried_ever_later_then_latched_with_the_reason(
    world: World,
) -> None:
    world.ask()
    for _ in range(50):
        world.tick(1.0)
        live = Pilot.objects.exclude(state="ended").first()
        if live is not None and live.job_id is not None:
            world.slurm.set(live.job_id, "FAILED", "NonZeroExitCode")
    assert Pilot.objects.count() == 3
    state = PoolState.objects.get()
    assert state.latched_at is not None
    assert "its program failed (NonZeroExitCode)" in state.reason
    assert Request.objects.get().state == "queued"


def test_an_engine_that_fails_is_tried_again_in_the_same_job(world: World) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot, "failed")
    world.tick()
    assert PoolState.objects.get().reason == "Starting it failed: it broke"
    assert not Replica.objects.exclude(state="failed").exists()
    world.report(pilot)
    world.tick(6)
    assert Replica.objects.exclude(state="failed").get().pilot_id == pilot.pk
    assert len(world.slurm.submitted) == 1


def test_a_good_launch_forgets_the_failures_before_it(world: World) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot, "failed")
    world.tick()
    world.report(pilot)
    world.tick(6)
    world.tick(1)
    world.report(pilot, "hot")
    world.tick(1)
    state = PoolState.objects.get()
    assert (state.failures, state.retry_at, state.reason) == (0, None, "")


def test_preemption_counts_against_nobody(world: World) -> None:
    world.ask()
    world.tick()
    job_id = world.pilot().job_id
    assert job_id
    world.slurm.set(job_id, "PREEMPTED")
    world.tick()
    assert len(world.slurm.submitted) == 2
    assert not PoolState.objects.filter(failures__gt=0).exists()


def test_an_idle_model_is_let_go_and_then_its_job(world: World) -> None:
    pilot = world.hot_pilot()
    world.report(pilot, idle_for_s=99)
    world.tick(0.5)
    assert world.replica(pilot).state == "hot"
    world.report(pilot, idle_for_s=101)
    world.tick(0.5)
    assert world.replica(pilot).state == "draining"
    world.report(pilot, "stopped")
    world.tick(1)
    pilot.refresh_from_db()
    assert pilot.state == "up"
    world.report(pilot)
    world.tick(world.config.pilot_idle_s)
    pilot.refresh_from_db()
    assert pilot.state == "draining"
    world.says_ending(pilot)
    world.tick()
    pilot.refresh_from_db()
    assert (pilot.state, pilot.end_reason) == ("ended", "Its agent ended it: drained.")
    assert list(Decision.objects.order_by("id").values_list("kind", flat=True)) == [
        "launch", "drain_replica", "drain_pilot",
    ]  # fmt: skip


def test_a_busy_model_is_never_let_go(world: World) -> None:
    pilot = world.hot_pilot()
    for _ in range(10):
        world.report(pilot, in_flight=1)
        world.tick(100)
    assert world.replica(pilot).state == "hot"


def test_an_orphan_of_ours_is_cancelled_only_after_two_listings_agree(world: World) -> None:
    ours = world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")
    world.slurm.add(f"berth-0ther-{uuid.uuid4()}", "RUNNING")
    world.slurm.add("my-training", "RUNNING")
    world.tick()
    world.tick(59)
    assert world.slurm.cancelled == []
    assert list(world.cluster().orphans) == [str(ours)]
    world.tick(2)
    assert world.slurm.cancelled == [ours]
    world.tick()
    assert world.cluster().orphans == {}


def test_an_orphan_that_reports_or_a_paused_fleet_keeps_it(world: World) -> None:
    pilot = world.hot_pilot()
    Replica.objects.all().delete()
    Pilot.objects.filter(pk=pilot.pk).update(state="ended", ended_at=world.at())
    for _ in range(4):
        world.report(pilot)
        world.tick(25)
    assert world.slurm.cancelled == []
    world.give(Command.Kind.PAUSE)
    world.tick(1)
    world.tick(300)
    assert world.slurm.cancelled == []
    world.give(Command.Kind.RESUME)
    world.tick(1)
    world.tick(2)
    assert world.slurm.cancelled == [pilot.job_id]


def test_a_gateway_that_went_away_leaves_its_requests_to_the_pilots(world: World) -> None:
    with moving() as cur:
        ledger.heartbeat(cur, "gw1", "gateway", world.at())
    request = world.ask(lane="held", holder="gw1")
    world.tick(19)
    assert Request.objects.get(pk=request).lane == "held"
    world.tick(2)
    moved = Request.objects.get(pk=request)
    assert (moved.lane, moved.state, moved.holder) == ("async", "queued", None)


def test_moves_are_written_down(world: World) -> None:
    world.hot_pilot()
    assert FleetEvent.objects.filter(new="up").exists()
    assert world.cluster().ticked_at is not None
