"""Moves of pilots and replicas: compare-and-set, one owner, forward only, an event row for each."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from portal.catalog.models import Environment, Pool, Profile
from portal.fleet import transitions as fleet
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.transitions import NewPilot, NewReplica, Registration, Seen, SlurmFact

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def pilot(pg: Connection) -> uuid.UUID:
    """Make a planned pilot with one wanted replica on GPU 0."""
    environment = Environment.objects.create(name="e", engine="echo")
    profile = Profile.objects.create(name="p", partition="gpu", gpus=2)
    Pool.objects.create(name="m", environment=environment)
    id_ = uuid.uuid4()
    with pg.cursor() as cur:
        fleet.plan(cur, NewPilot(id_, "main", profile.pk, f"berth-x-{id_}", 2, 1000, 60), NOW)
        fleet.want(cur, replica(id_), NOW)
    return id_


def replica(pilot: uuid.UUID, gpu: int = 0) -> NewReplica:
    return NewReplica(uuid.uuid4(), pilot, "m", "m", "echo", (gpu,), 100, 4)


def registration(pilot: uuid.UUID, job_id: int) -> Registration:
    return Registration(pilot, job_id, "gpu01", "http://127.0.0.1:1", NOW, ("0", "1"), "1")


def one(link: Connection, sql: str) -> tuple[object, ...]:
    with link.cursor() as cur:
        cur.execute(sql)
        found = cur.fetchone()
        assert found is not None
        return found


def its_replica(link: Connection) -> uuid.UUID:
    return uuid.UUID(str(one(link, "SELECT id FROM fleet_replica")[0]))


def test_a_pilot_is_submitted_once(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        assert fleet.submitted(cur, pilot, 7, NOW)
        assert not fleet.submitted(cur, pilot, 8, NOW), "a second job must not take its place"
    assert one(pg, "SELECT job_id FROM fleet_pilot") == (7,)


def test_of_two_jobs_of_one_name_one_registers(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        assert fleet.register(cur, registration(pilot, 7), NOW)
        assert not fleet.register(cur, registration(pilot, 8), NOW)
        assert fleet.register(cur, registration(pilot, 7), NOW), "the same job may register again"
        assert not fleet.submitted(cur, pilot, 8, NOW), "the loop must not adopt the other job"


def test_only_a_registered_pilot_comes_up(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        fleet.submitted(cur, pilot, 7, NOW)
        fleet.slurm_said(cur, [SlurmFact(pilot, "PENDING", "Priority", None, None, "")], NOW)
        assert one(pg, "SELECT state FROM fleet_pilot") == ("submitted",), "what was seen moves nobody"
        fleet.pending(cur, [pilot], NOW)
        assert one(pg, "SELECT state FROM fleet_pilot") == ("pending",)
        assert fleet.up(cur, [pilot], NOW) == []
        fleet.register(cur, registration(pilot, 7), NOW)
        assert fleet.up(cur, [pilot], NOW) == [pilot]
        assert fleet.up(cur, [pilot], NOW) == []


def test_an_ended_pilot_takes_its_replicas_and_frees_its_gpus(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        assert fleet.end_pilots(cur, [pilot], NOW, "node failed", failed=True) == [pilot]
        assert fleet.end_pilots(cur, [pilot], NOW, "again", failed=True) == []
        assert not fleet.register(cur, registration(pilot, 7), NOW), "an ended pilot's agent has to exit"
    assert one(pg, "SELECT state, end_reason FROM fleet_replica") == ("failed", "node failed")
    assert one(pg, "SELECT count(*) FROM fleet_gpuclaim") == (0,)


def test_a_hot_replica_of_an_ended_pilot_is_stopped_not_failed(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        fleet.seen(cur, pilot, [Seen(its_replica(pg), "hot", "", NOW, NOW, "", "1")], NOW)
        fleet.end_pilots(cur, [pilot], NOW, "time limit", failed=True)
    assert one(pg, "SELECT state FROM fleet_replica") == ("stopped",)


def test_one_gpu_has_one_owner(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        fleet.want(cur, replica(pilot, gpu=1), NOW)
        with pytest.raises(psycopg2.errors.UniqueViolation):
            fleet.want(cur, replica(pilot, gpu=0), NOW)
    pg.rollback()


def test_a_late_report_does_not_take_a_draining_replica_back_to_hot(pg: Connection, pilot: uuid.UUID) -> None:
    id_ = its_replica(pg)
    hot = Seen(id_, "hot", "", NOW, NOW, "", "1")
    with pg.cursor() as cur:
        assert [m.new for m in fleet.seen(cur, pilot, [hot], NOW)] == ["hot"]
        assert [m.new for m in fleet.drain_replicas(cur, [id_], NOW, "idle")] == ["draining"]
        assert fleet.seen(cur, pilot, [hot], NOW) == []
        stopped = Seen(id_, "stopped", "", NOW, NOW, "", "1")
        assert [m.new for m in fleet.seen(cur, pilot, [stopped], NOW)] == ["stopped"]
        assert fleet.seen(cur, pilot, [hot], NOW) == []


def test_a_report_touches_only_its_own_pilots_replicas(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        assert fleet.seen(cur, uuid.uuid4(), [Seen(its_replica(pg), "hot", "", NOW, NOW, "", "")], NOW) == []


def test_every_move_leaves_an_event(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        fleet.submitted(cur, pilot, 7, NOW)
        fleet.register(cur, registration(pilot, 7), NOW)
        fleet.up(cur, [pilot], NOW)
        fleet.drain_pilots(cur, [pilot], NOW, "walltime")
        fleet.end_pilots(cur, [pilot], NOW, "drained", failed=False)
        cur.execute("SELECT new FROM fleet_fleetevent WHERE replica IS NULL ORDER BY id")
        assert [r[0] for r in cur.fetchall()] == ["planned", "submitted", "up", "draining", "ended"]
        cur.execute("SELECT new FROM fleet_fleetevent WHERE replica IS NOT NULL ORDER BY id")
        assert [r[0] for r in cur.fetchall()] == ["wanted", "draining", "stopped"]


@pytest.mark.parametrize(
    "wrong", ["state = 'up'", "state = 'submitted'", "ended_at = now()", "state = 'ended'", "state = 'hot'"]
)
def test_the_database_refuses_a_pilot_state_without_its_facts(
    pg: Connection, pilot: uuid.UUID, wrong: str
) -> None:
    with pg.cursor() as cur, pytest.raises(psycopg2.errors.CheckViolation):
        cur.execute(f"UPDATE fleet_pilot SET {wrong}")
    pg.rollback()


def _asleep(link: Connection, pilot: uuid.UUID, id_: uuid.UUID, level: int = 1) -> list[str]:
    """Bring a replica up, tell it to sleep, and return what its agent's word then moves it to."""
    with link.cursor() as cur:
        fleet.seen(cur, pilot, [Seen(id_, "hot", "", NOW, NOW, "", "1")], NOW)
        fleet.drain_replicas(cur, [id_], NOW, "makes room", level)
        return [m.new for m in fleet.seen(cur, pilot, [Seen(id_, "asleep", "", NOW, NOW, "", "1", 300)], NOW)]


def test_a_sleeper_gives_its_gpus_back_and_takes_them_again_when_it_wakes(
    pg: Connection, pilot: uuid.UUID
) -> None:
    id_ = its_replica(pg)
    assert _asleep(pg, pilot, id_) == ["asleep"]
    asleep = "SELECT gpu_indices::text, sleep_level, asleep_mem_mb, asleep_at FROM fleet_replica"
    assert one(pg, asleep) == ("[0]", 1, 300, NOW)
    with pg.cursor() as cur:
        other = replica(pilot)
        fleet.want(cur, other, NOW)
        pg.commit()
        with pytest.raises(psycopg2.errors.UniqueViolation):
            fleet.wake(cur, id_, (0,), NOW, "wanted")
        pg.rollback()
        fleet.seen(cur, pilot, [Seen(other.id, "failed", "", NOW, None, "", "1")], NOW)
        assert fleet.wake(cur, id_, (0,), NOW, "wanted")
        assert not fleet.wake(cur, id_, (0,), NOW, "wanted")
    where = f"FROM fleet_replica WHERE id = '{id_}'"
    assert one(pg, f"SELECT state, phase, sleep_level {where}") == ("starting", "waking", 0)
    assert one(pg, "SELECT replica_id::text FROM fleet_gpuclaim") == (str(id_),)


def test_host_memory_asleep_is_never_taken_for_less_than_the_catalog_says(
    pg: Connection, pilot: uuid.UUID
) -> None:
    Pool.objects.update(asleep_mem_mb=20_000)
    _asleep(pg, pilot, its_replica(pg))
    assert one(pg, "SELECT asleep_mem_mb FROM fleet_replica") == (20_000,)


def test_a_report_of_sleep_does_not_undo_the_wish_to_stop_it(pg: Connection, pilot: uuid.UUID) -> None:
    id_ = its_replica(pg)
    _asleep(pg, pilot, id_)
    with pg.cursor() as cur:
        assert [m.new for m in fleet.drain_replicas(cur, [id_], NOW, "memory")] == ["draining"]
        assert fleet.seen(cur, pilot, [Seen(id_, "asleep", "", NOW, NOW, "", "1", 300)], NOW) == []
        stopped = Seen(id_, "stopped", "", NOW, NOW, "", "1")
        assert [m.new for m in fleet.seen(cur, pilot, [stopped], NOW)] == ["stopped"]


def test_one_that_was_only_to_stop_does_not_end_up_asleep(pg: Connection, pilot: uuid.UUID) -> None:
    assert _asleep(pg, pilot, its_replica(pg), level=0) == []


def test_a_nodes_name_is_slurms_whatever_the_node_calls_itself(pg: Connection, pilot: uuid.UUID) -> None:
    with pg.cursor() as cur:
        fleet.submitted(cur, pilot, 7, NOW)
        said = registration(pilot, 7)
        assert fleet.register(cur, said, NOW)
        assert one(pg, "SELECT node FROM fleet_pilot") == ("gpu01",), "before Slurm was heard"
        fleet.slurm_said(cur, [SlurmFact(pilot, "RUNNING", "None", None, None, "n001")], NOW)
        assert fleet.register(cur, said, NOW)
        assert one(pg, "SELECT node FROM fleet_pilot") == ("n001",)


def test_a_decision_of_no_known_kind_is_refused(pg: Connection) -> None:
    row = "INSERT INTO fleet_decision (at, kind, pool, reason, inputs) VALUES (now(), %s, '', '', '{}')"
    with pg.cursor() as cur:
        for kind in DecisionKind:
            cur.execute(row, (kind.value,))
        with pytest.raises(psycopg2.errors.CheckViolation):
            cur.execute(row, ("explode",))
