"""From a waiting request to a running job, and every way in which the submission may go wrong."""

from __future__ import annotations

import threading
import time
from datetime import timedelta
from itertools import pairwise

import psycopg2
import pytest
import redis as redis_library
from django.db import connection
from psycopg2.extensions import connection as Connection

from portal.accounts.models import Quota
from portal.db.transaction import LOOP_LOCK, moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Command, Decision, FleetEvent, Pilot, PoolState, Replica
from portal.redis import keys
from scheduler.reconcile import run_once
from scheduler.slurm.protocol import NoAnswer
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def test_a_waiting_request_becomes_a_job_in_one_tick_with_its_reason_stored(world: World) -> None:
    world.ask()
    world.tick()
    pilot = world.pilot()
    replica = world.replica(pilot)
    assert (pilot.state, pilot.job_id) == ("submitted", 101)
    assert (replica.state, replica.model, replica.engine) == ("wanted", "llama-model", "echo")
    assert replica.gpu_indices == [0]
    (spec,) = world.slurm.submitted
    assert (spec.name, spec.gres) == (f"berth-{world.config.instance}-{pilot.pk}", "gpu:a100:2")
    decision = Decision.objects.get()
    assert (decision.kind, decision.pool, decision.pilot, decision.replica) == (
        "launch", "llama", pilot.pk, replica.pk,
    )  # fmt: skip
    assert decision.reason.startswith("1 request waiting for llama")
    assert decision.inputs["queued"] == 1
    assert "portal_token" in spec.secret.text
    assert "portal_token" not in world.slurm.scripts[0]


def test_a_job_goes_through_its_states_as_slurm_and_the_agent_report_them(world: World) -> None:
    world.ask()
    world.tick()
    world.tick()
    assert world.pilot().state == "pending"
    world.start(world.pilot())
    world.report(world.pilot(), "starting")
    world.tick()
    pilot = world.pilot()
    assert (pilot.state, pilot.slurm_state) == ("up", "RUNNING")
    moves = FleetEvent.objects.filter(replica=None).order_by("id").values_list("new", flat=True)
    assert list(moves) == ["planned", "submitted", "pending", "up"]
    assert len(world.slurm.submitted) == 1


def test_parked_work_launches_nothing(world: World) -> None:
    request = world.ask()
    with connection.cursor() as cur:
        cur.execute("UPDATE ledger_request SET state = 'parked' WHERE id = %s", (str(request),))
    Quota.objects.create(level="model", model="llama-model", requests_per_min=1)
    bucket = keys.LIMIT.of("model", "llama-model", "requests")
    world.redis.set(bucket, time.time() + 3600)
    world.tick()
    assert not Pilot.objects.exists()
    world.redis.delete(bucket)
    world.tick()
    assert Pilot.objects.exists(), "the limit has refilled: it is queued now"


def test_a_second_pool_shares_the_job_that_is_on_its_way(world: World) -> None:
    world.add_pool("mistral")
    world.ask("llama")
    world.ask("mistral")
    world.tick()
    world.tick()
    assert len(world.slurm.submitted) == 1
    replicas = Replica.objects.order_by("pool_id")
    assert [(r.pool_id, r.gpu_indices) for r in replicas] == [("llama", [0]), ("mistral", [1])]


def test_one_listing_serves_many_ticks(world: World) -> None:
    for _ in range(20):
        world.tick(0.1)
    assert world.slurm.asked <= 3


def test_while_slurm_is_silent_nothing_is_launched_and_the_fleet_page_can_say_why(world: World) -> None:
    world.slurm.silent = "squeue: no answer within 20 s"
    world.ask()
    world.tick()
    world.tick()
    assert not Pilot.objects.exists()
    way = world.way()
    assert (way.error, way.answered_at) == ("squeue: no answer within 20 s", None)
    assert "Slurm does not answer" in PoolState.objects.get().reason
    world.slurm.silent = ""
    world.tick()
    assert world.pilot().state == "submitted"
    assert world.way().error == ""
    assert PoolState.objects.get().reason == ""


def test_a_submission_whose_answer_was_lost_is_adopted_by_its_name_and_not_doubled(world: World) -> None:
    def lose_the_answer() -> None:
        raise NoAnswer("sbatch: no answer within 20 s")

    world.slurm.on_submit = lose_the_answer
    world.ask()
    world.tick()
    assert world.pilot().state == "planned"
    assert world.way().error == "sbatch: no answer within 20 s"
    world.tick()
    assert (world.pilot().state, world.pilot().job_id) == ("pending", 101)
    assert len(world.slurm.submitted) == 1


def test_a_loop_killed_after_the_submission_adopts_and_one_killed_before_it_submits_again(
    world: World,
) -> None:
    class Killed(BaseException):
        pass

    def die() -> None:
        raise Killed

    world.slurm.on_submit = die
    world.ask()
    with pytest.raises(Killed):
        world.tick()
    world.slurm.on_submit = lambda: None
    world.tick()
    assert (world.pilot().job_id, len(world.slurm.submitted)) == (101, 1)
    # Killed between the intent and sbatch: the row is there, the job is not.
    Pilot.objects.update(state="planned", job_id=None, submitted_at=None)
    world.slurm.vanish(101)
    world.tick()
    assert (world.pilot().state, world.pilot().job_id, len(world.slurm.submitted)) == ("submitted", 102, 2)
    assert world.slurm.submitted[0].name == world.slurm.submitted[1].name


def test_a_number_that_slurm_gives_twice_is_the_newer_jobs(world: World) -> None:
    """And the tick goes on: one row that refuses the other would stop every tick."""
    world.ask()
    world.tick()
    older = world.pilot()
    world.add_pool("mistral", gpus=2)
    world.ask("mistral")
    world.slurm.lose_its_memory()
    world.tick()
    older.refresh_from_db()
    assert (older.state, older.job_id) == ("ended", 101)
    assert older.end_reason == "Slurm has forgotten job 101: it gave the number to another one."
    assert any(str(older.pk) in secret for secret in world.slurm.forgotten)
    newer = Pilot.objects.exclude(state="ended").get(job_id=101)
    assert newer.state == "submitted"
    assert PoolState.objects.filter(failures__gt=0).count() == 0


def test_a_number_that_slurm_gives_twice_does_not_end_a_pilot_whose_agent_runs(world: World) -> None:
    """Its node may have kept the job: one that works is not given up for one that has not begun."""
    older = world.hot_pilot()
    world.add_pool("mistral", gpus=2)
    world.ask("mistral")
    world.slurm.lose_its_memory()
    world.report(older)
    world.tick()
    older.refresh_from_db()
    assert (older.state, older.job_id) == ("up", 101)
    assert "the agent of the other one has not ended" in Pilot.objects.get(state="ended").end_reason
    assert world.slurm.cancelled == [101]
    world.report(older)
    world.tick()
    assert Pilot.objects.exclude(state="ended").get(job_id=102).state == "submitted"


def test_a_number_that_slurm_gives_twice_while_its_answer_is_lost_is_the_newer_jobs(world: World) -> None:
    def lose_the_answer() -> None:
        raise NoAnswer("sbatch: no answer within 20 s")

    world.ask()
    world.tick()
    older = world.pilot()
    world.add_pool("mistral", gpus=2)
    world.ask("mistral")
    world.slurm.lose_its_memory()
    world.slurm.on_submit = lose_the_answer
    world.tick()
    world.slurm.on_submit = lambda: None
    world.tick()
    older.refresh_from_db()
    assert older.state == "ended"
    assert any(str(older.pk) in secret for secret in world.slurm.forgotten)
    assert Pilot.objects.exclude(state="ended").get(job_id=101).state == "pending"


def test_an_agent_that_registers_names_its_job_even_while_slurm_is_silent(world: World) -> None:
    world.ask()
    world.tick()
    Pilot.objects.update(state="planned", job_id=None, submitted_at=None)
    world.slurm.silent = "squeue: no answer within 20 s"
    said = fleet.Registration(world.pilot().pk, 101, "gpu01", "http://x", world.at(), ("0",), "1")
    with moving() as cur:
        assert fleet.register(cur, said, world.at())
    world.tick()
    assert (world.pilot().state, world.pilot().job_id) == ("up", 101)


def test_an_intent_is_not_submitted_again_on_the_word_of_an_older_listing(world: World) -> None:
    world.ask()
    world.slurm.silent = ""
    world.tick()
    Pilot.objects.update(state="planned", job_id=None, submitted_at=None)
    world.slurm.vanish(101)
    world.tick(0.5)  # no new listing is due yet
    assert len(world.slurm.submitted) == 1
    Pilot.objects.update(planned_at=world.at() + timedelta(seconds=5))
    world.tick(2.0)
    assert len(world.slurm.submitted) == 1
    world.tick(10.0)
    assert len(world.slurm.submitted) == 2


def test_of_two_jobs_of_one_name_the_lower_is_kept(world: World) -> None:
    world.ask()
    world.tick()
    Pilot.objects.update(state="planned", job_id=None, submitted_at=None)
    world.slurm.add(world.pilot().job_name)
    world.tick()
    assert world.pilot().job_id == 101
    assert world.slurm.cancelled == [102]


def test_a_refused_job_is_tried_three_times_ever_later_then_latched_until_a_person_says_so(
    world: World,
) -> None:
    world.slurm.refuse = "Invalid account or account/partition combination specified"
    world.ask()
    tried = []
    for _ in range(60):
        before = Pilot.objects.count()
        world.tick(1.0)
        if Pilot.objects.count() > before:
            tried.append(world.now)
    assert [round(b - a) for a, b in pairwise(tried)] == [5, 10]
    state = PoolState.objects.get()
    assert (state.failures, state.latched_at is not None) == (3, True)
    assert "Slurm refused the job: Invalid account" in state.reason
    world.slurm.refuse = ""
    world.give(Command.Kind.RELAUNCH, pool=world.pool)
    world.tick()
    assert world.pilot().state == "submitted"
    state.refresh_from_db()
    assert (state.failures, state.latched_at, state.reason) == (0, None, "")


def test_a_profile_that_may_not_stand_in_a_script_fails_the_launch_and_is_named(world: World) -> None:
    world.profile.partition = "gpu; rm -rf /"
    world.profile.save()
    world.ask()
    world.tick()
    assert Pilot.objects.get().end_reason.startswith("Its profile: partition:")
    assert world.slurm.submitted == []


def test_a_job_that_slurm_will_never_start_is_cancelled_and_its_pool_latched(world: World) -> None:
    world.ask()
    world.tick()
    world.slurm.set(101, "PENDING", "BadConstraints")
    world.tick()
    assert world.slurm.cancelled == [101]
    assert Pilot.objects.get().state == "ended"
    state = PoolState.objects.get()
    assert state.latched_at is not None
    assert "no node can ever fit" in state.reason
    world.tick(100)
    assert len(world.slurm.submitted) == 1


def test_only_one_loop_runs_at_a_time(world: World, pg: Connection) -> None:
    world.ask()
    with pg.cursor() as cur:
        cur.execute("SELECT pg_advisory_lock(%s)", (LOOP_LOCK,))
    assert not run_once(world.config, world.redis, lambda prefix: world.slurm, lambda: world.now)
    assert not Pilot.objects.exists()
    pg.close()  # the other loop's process dies: PostgreSQL frees the lock once it notices
    deadline = threading.Event()
    for _ in range(200):
        if run_once(world.config, world.redis, lambda prefix: world.slurm, lambda: world.now):
            break
        deadline.wait(0.05)
    assert world.pilot().state == "submitted"


def test_the_lock_is_free_again_after_a_tick_that_failed(
    world: World, test_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def explode() -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("scheduler.maintenance.parked_rows.unpark", explode)
    with pytest.raises(ZeroDivisionError):
        world.tick()
    other = psycopg2.connect(test_dsn)
    try:
        with other.cursor() as cur:
            cur.execute("SELECT pg_try_advisory_lock(%s)", (LOOP_LOCK,))
            assert cur.fetchone() == (True,)
    finally:
        other.close()
