"""What served a request stands on its row, however it was handed out and whatever becomes of the fleet."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any

import pytest
from psycopg2.extensions import connection as Connection

from portal.catalog.models import Environment, Model, Pool, Profile
from portal.fleet import transitions as fleet
from portal.fleet.transitions import NewPilot, NewReplica, Registration, Seen
from portal.ledger import transitions as ledger
from portal.ledger.timeline import Facts, timeline
from portal.ledger.transitions import Finish, Grant, Granted, Interrupted, Recorded
from tests.db.test_ledger_transitions import GATEWAY, NOW, PILOT, accept, new, row

SERVED = ("revision", "engine_version", "gpu_type")


def at(seconds: float) -> datetime:
    return NOW + timedelta(seconds=seconds)


@pytest.fixture
def hot(pg: Connection) -> uuid.UUID:
    """Make a replica whose job was submitted at 0 s and ran at 10 s, whose engine started at 12 s and was
    hot at 42."""
    environment = Environment.objects.create(name="e", engine="echo")
    profile = Profile.objects.create(name="p", partition="gpu")
    pool = Pool.objects.create(name="m", environment=environment)
    Model.objects.create(name="m", pool=pool, revision="weights-1")
    Model.objects.create(name="m-lora", pool=pool, revision="adapter-1", kind="dnn")  # as an adapter will be
    pilot, replica = uuid.uuid4(), uuid.uuid4()
    with pg.cursor() as cur:
        fleet.plan(cur, NewPilot(pilot, "main", profile.pk, "berth-x", 1, 1000, 60, gpu_type="a100"), NOW)
        fleet.want(cur, NewReplica(replica, pilot, "m", "m", "echo", (0,), 100, 4), NOW)
        fleet.submitted(cur, pilot, 7, NOW)
        fleet.register(
            cur, Registration(pilot, 7, "gpu01", "http://127.0.0.1:1", at(10), ("0",), "1"), at(11)
        )
        fleet.seen(cur, pilot, [Seen(replica, "starting", "", at(12), None, "", "")], at(12))
        fleet.seen(cur, pilot, [Seen(replica, "hot", "", at(12), at(42), "", "0.32")], at(42))
    pg.commit()
    return replica


def grant(pg: Connection, request: uuid.UUID, replica: uuid.UUID, when: datetime) -> Granted:
    with pg.cursor() as cur:
        return ledger.grant(cur, [Grant(request, GATEWAY, replica)], when)[request]


def recorded(replica: uuid.UUID, **changes: Any) -> Recorded:
    values: dict[str, Any] = {
        "id": uuid.uuid4(), "pool": "m", "model": "m", "project_id": 1, "user_id": 1, "token_id": None,
        "api": "/v1/completions", "stream": True, "holder": GATEWAY, "replica": replica, "state": "done",
        "accepted_at": at(20), "granted_at": at(20), "first_token_at": None, "ended_at": at(60), "http_status": None,
        "error_code": None, "error_text": None, "prompt_tokens": None, "completion_tokens": None,
    }  # fmt: skip
    return Recorded(**{**values, **changes})


def served(pg: Connection, request: uuid.UUID) -> tuple[Any, ...]:
    found = row(pg, request)
    return tuple(found[name] for name in SERVED)


def test_each_way_of_being_handed_out_copies_what_serves(pg: Connection, hot: uuid.UUID) -> None:
    held, pulled, streamed = new("held"), new(), recorded(hot)
    accept(pg, held, pulled)
    grant(pg, held.id, hot, at(50))
    with pg.cursor() as cur:
        (claimed,) = ledger.claim(cur, holder=PILOT, pool="m", replica=hot, room=9, now=at(50))
        ledger.finish(cur, [Finish(claimed.id, claimed.attempt, PILOT, "done", at(60))])
        ledger.record(cur, [streamed])
    assert {served(pg, request.id) for request in (held, pulled, streamed)} == {("weights-1", "0.32", "a100")}
    assert (row(pg, streamed.id)["slurm_s"], row(pg, streamed.id)["load_s"]) == (0.0, 0.0), "it did not wait"


def test_an_adapter_has_a_revision_of_its_own(pg: Connection, hot: uuid.UUID) -> None:
    held, pulled, streamed = new("held", model="m-lora"), new(model="m-lora"), recorded(hot, model="m-lora")
    accept(pg, held, pulled, new())
    grant(pg, held.id, hot, at(50))
    with pg.cursor() as cur:
        assert len(ledger.claim(cur, holder=PILOT, pool="m", replica=hot, room=9, now=at(50))) == 2
        ledger.record(cur, [recorded(hot), streamed])
    revisions = [row(pg, request.id)["revision"] for request in (held, pulled, streamed)]
    assert revisions == ["adapter-1"] * 3


def test_the_revision_is_that_of_the_engines_start(pg: Connection, hot: uuid.UUID) -> None:
    Model.objects.update(revision="weights-2")
    held = new("held")
    accept(pg, held)
    grant(pg, held.id, hot, at(50))
    assert row(pg, held.id)["revision"] == "weights-1"


def test_what_was_copied_stays_when_the_fleet_forgets(pg: Connection, hot: uuid.UUID) -> None:
    streamed = recorded(hot)
    with pg.cursor() as cur:
        ledger.record(cur, [streamed])
        cur.execute("DELETE FROM fleet_gpuclaim; DELETE FROM fleet_replica; DELETE FROM fleet_pilot")
    assert served(pg, streamed.id) == ("weights-1", "0.32", "a100")


def test_a_row_that_goes_back_in_line_was_served_by_nobody(pg: Connection, hot: uuid.UUID) -> None:
    held, pulled, lost = new("held"), new(order_key=1.0), new(order_key=2.0)
    accept(pg, held, pulled, lost)
    grant(pg, held.id, hot, at(50))
    pilot = uuid.uuid4()
    with pg.cursor() as cur:
        ledger.claim(cur, holder=PILOT, pool="m", replica=hot, room=1, now=at(50))
        ledger.claim(cur, holder=str(pilot), pool="m", replica=hot, room=1, now=at(50))
        ledger.interrupt(cur, [Interrupted(pulled.id, 1, PILOT, "lost")], at(51), 3)
        ledger.release(cur, pilot, at(51), "its pilot ended")
        ledger.detach(cur, at(52), at(52))
    for request in (held, pulled, lost):
        found = row(pg, request.id)
        assert found["state"] == "queued"
        assert {found[name] for name in (*SERVED, "slurm_s", "load_s")} == {None}


def test_a_replica_that_no_row_knows_serves_all_the_same(pg: Connection) -> None:
    held, pulled, streamed = new("held"), new(), recorded(uuid.uuid4())
    accept(pg, held, pulled)
    assert grant(pg, held.id, uuid.uuid4(), at(50)) == Granted(1, 0.0, 0.0)
    with pg.cursor() as cur:
        assert ledger.claim(cur, holder=PILOT, pool="m", replica=uuid.uuid4(), room=9, now=at(50))
        assert ledger.record(cur, [streamed]) == [streamed.id]
    assert {served(pg, request.id) for request in (held, pulled, streamed)} == {(None, None, None)}


@pytest.mark.parametrize(
    ("accepted", "granted", "slurm_s", "load_s"),
    [
        (-5.0, 45.0, 10.0, 30.0),  # waited for all of it
        (4.0, 43.0, 6.0, 30.0),  # came while the job was pending
        (20.5, 42.25, 0.0, 21.5),  # came while the engine started
        (50.0, 51.0, 0.0, 0.0),  # came when it was there
        (-9.0, 30.0, 10.0, 18.0),  # by a clock that is behind the node's
    ],
)
def test_the_split_of_the_wait_is_the_timelines(
    pg: Connection, hot: uuid.UUID, accepted: float, granted: float, slurm_s: float, load_s: float
) -> None:
    held, pulled = new("held", accepted_at=at(accepted)), new(accepted_at=at(accepted))
    accept(pg, held, pulled)
    assert grant(pg, held.id, hot, at(granted)) == Granted(1, slurm_s, load_s)
    with pg.cursor() as cur:
        ledger.claim(cur, holder=PILOT, pool="m", replica=hot, room=9, now=at(granted))
    told = timeline(
        Facts(
            at(accepted), at(granted), job_submitted_at=at(0), job_started_at=at(10), engine_started_at=at(12),
            engine_ready_at=at(42),
        )
    )  # fmt: skip
    assert (told.slurm_s, told.load_s) == (slurm_s, load_s)
    found = row(pg, pulled.id)
    assert (found["slurm_s"], found["load_s"]) == (slurm_s, load_s)
