"""Moves of requests: what each moves, what it refuses to move, and what it leaves behind."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from portal.ledger import transitions as ledger
from portal.ledger.transitions import Finish, Grant, Granted, Interrupted, NewRequest

NOW = datetime(2026, 1, 1, tzinfo=UTC)
REPLICA = uuid.uuid4()
GATEWAY, PILOT = "gateway-1", "pilot-1"


def new(lane: str = "async", order_key: float = 0.0, **changes: Any) -> NewRequest:
    values: dict[str, Any] = {
        "id": uuid.uuid4(), "pool": "m", "model": "m", "project_id": 1, "user_id": 1, "token_id": None,
        "api": "/v1/chat/completions", "stream": False, "lane": lane, "order_key": order_key,
        "holder": GATEWAY if lane == "held" else None, "accepted_at": NOW, "body": b'{"prompt": "canary"}',
    }  # fmt: skip
    return NewRequest(**{**values, **changes})


def row(link: Connection, id_: uuid.UUID) -> dict[str, Any]:
    with link.cursor() as cur:
        cur.execute("SELECT * FROM ledger_request WHERE id = %s", (str(id_),))
        assert cur.description is not None
        found = cur.fetchone()
        assert found is not None
        return dict(zip([column.name for column in cur.description], found, strict=True))


def payloads(link: Connection) -> int:
    with link.cursor() as cur:
        cur.execute("SELECT count(*) FROM ledger_payload")
        found = cur.fetchone()
        assert found is not None
        return int(found[0])


def accept(link: Connection, *rows: NewRequest) -> list[uuid.UUID]:
    with link.cursor() as cur:
        return ledger.accept(cur, rows)


def claim(
    link: Connection, room: int = 10, holder: str = PILOT, *, idle: bool = True
) -> list[ledger.Claimed]:
    with link.cursor() as cur:
        return ledger.claim(cur, holder=holder, pool="m", replica=REPLICA, room=room, now=NOW, idle=idle)


def test_accepting_the_same_id_twice_keeps_the_first(pg: Connection) -> None:
    first = new()
    assert accept(pg, first) == [first.id]
    assert accept(pg, first) == []
    assert payloads(pg) == 1


def test_a_grant_moves_only_its_own_gateways_queued_rows(pg: Connection) -> None:
    mine, other = new("held"), new("held", holder="gateway-2")
    accept(pg, mine, other)
    with pg.cursor() as cur:
        grants = [Grant(mine.id, GATEWAY, REPLICA), Grant(other.id, GATEWAY, REPLICA)]
        assert ledger.grant(cur, grants, NOW) == {mine.id: Granted(1)}
        assert ledger.grant(cur, grants, NOW) == {}, "a second grant of the same request moves nothing"


def test_a_claim_takes_the_lowest_order_keys_and_never_more_than_the_room(pg: Connection) -> None:
    rows = [new(order_key=float(key)) for key in (5, 1, 3, 2, 4)]
    accept(pg, *rows)
    got = claim(pg, room=2)
    assert [c.id for c in got] == [rows[1].id, rows[3].id]
    assert [c.attempt for c in got] == [1, 1]
    assert got[0].body == b'{"prompt": "canary"}'


def test_two_claims_at_once_never_take_the_same_row(pg: Connection, test_dsn: str) -> None:
    accept(pg, *[new(order_key=float(i)) for i in range(6)])
    pg.commit()
    other = psycopg2.connect(test_dsn)
    try:
        first = claim(pg, room=3)  # not committed: its rows are locked
        second = claim(other, room=6)
        assert len(first) == 3 and len(second) == 3
        assert not {c.id for c in first} & {c.id for c in second}
    finally:
        other.close()


def test_held_rows_are_never_claimed_by_a_pilot(pg: Connection) -> None:
    accept(pg, new("held"))
    assert claim(pg) == []


def test_an_interrupted_request_keeps_its_place(pg: Connection) -> None:
    first, second = new(order_key=1.0), new(order_key=2.0)
    accept(pg, first, second)
    [got] = claim(pg, room=1)
    with pg.cursor() as cur:
        assert ledger.interrupt(cur, [Interrupted(got.id, 1, PILOT, "drained")], NOW, 3) == ([first.id], [])
    assert [c.id for c in claim(pg, room=1)] == [first.id]
    assert row(pg, first.id)["attempt"] == 2
    assert row(pg, first.id)["crashes"] == 0, "an interruption is not a failure"


def test_a_late_result_of_an_older_attempt_moves_nothing(pg: Connection) -> None:
    only = new()
    accept(pg, only)
    claim(pg)
    with pg.cursor() as cur:
        ledger.interrupt(cur, [Interrupted(only.id, 1, PILOT, "node lost")], NOW, 3)
        claim(pg, holder="pilot-2")
        assert ledger.finish(cur, [Finish(only.id, 1, PILOT, "done", NOW, result=b"old")]) == []
        assert ledger.finish(cur, [Finish(only.id, 2, PILOT, "done", NOW, result=b"not its holder")]) == []
        assert ledger.finish(cur, [Finish(only.id, 2, "pilot-2", "done", NOW, result=b"new")]) == [only.id]
        cur.execute("SELECT result FROM ledger_payload")
        found = cur.fetchone()
    assert found is not None and bytes(found[0]) == b"new"


def test_a_held_requests_payload_is_erased_at_its_end(pg: Connection) -> None:
    held = new("held")
    accept(pg, held)
    with pg.cursor() as cur:
        ledger.grant(cur, [Grant(held.id, GATEWAY, REPLICA)], NOW)
        ledger.finish(cur, [Finish(held.id, 1, GATEWAY, "done", NOW)])
    assert payloads(pg) == 0


def test_an_engine_death_counts_and_the_third_is_poison(pg: Connection) -> None:
    suspect, neighbour = new(order_key=1.0), new(order_key=2.0)
    accept(pg, suspect, neighbour)
    for crash in (1, 2, 3):
        got = next(c for c in [*claim(pg), *claim(pg)] if c.id == suspect.id)
        assert got.alone == (crash > 1)
        with pg.cursor() as cur:
            result = ledger.interrupt(
                cur, [Interrupted(suspect.id, crash, PILOT, "crash", crashed=True)], NOW, 3
            )
        assert result == (([suspect.id], []) if crash < 3 else ([], [suspect.id]))
    ended = row(pg, suspect.id)
    assert (ended["state"], ended["error_code"]) == ("failed", "poison")
    assert row(pg, neighbour.id)["state"] == "running", "its neighbours do not fail with it"


def test_a_suspect_is_claimed_only_alone_and_only_by_an_idle_replica(pg: Connection) -> None:
    suspect = new(order_key=1.0)
    accept(pg, suspect)
    claim(pg)
    with pg.cursor() as cur:
        ledger.interrupt(cur, [Interrupted(suspect.id, 1, PILOT, "crash", crashed=True)], NOW, 3)
    accept(pg, new(order_key=2.0), new(order_key=3.0))
    assert [c.alone for c in claim(pg)] == [False, False], "the others go first"
    assert claim(pg, idle=False) == []
    assert [c.alone for c in claim(pg)] == [True]


@pytest.mark.parametrize("running", [False, True])
def test_a_dead_gateways_requests_become_async(pg: Connection, running: bool) -> None:
    held, safe = new("held"), new("held", holder="gateway-2")
    accept(pg, held, safe)
    with pg.cursor() as cur:
        ledger.heartbeat(cur, GATEWAY, "gateway", NOW - timedelta(seconds=60))
        ledger.heartbeat(cur, "gateway-2", "gateway", NOW)
        if running:
            ledger.grant(cur, [Grant(held.id, GATEWAY, REPLICA)], NOW)
        assert ledger.detach(cur, NOW - timedelta(seconds=20), NOW) == [held.id]
        assert ledger.finish(cur, [Finish(held.id, 1, GATEWAY, "done", NOW)]) == [], "the gateway was fenced"
    assert row(pg, held.id)["lane"] == "async"
    assert row(pg, safe.id)["lane"] == "held"
    assert [c.id for c in claim(pg)] == [held.id]


def test_an_ended_pilots_rows_go_back_and_count_nothing(pg: Connection) -> None:
    mine, other = new(order_key=1.0), new(order_key=2.0)
    accept(pg, mine, other)
    pilot = uuid.uuid4()
    claim(pg, room=1, holder=str(pilot))
    claim(pg, room=1, holder="another")
    with pg.cursor() as cur:
        assert ledger.release(cur, pilot, NOW, "node failed") == [mine.id]
    assert row(pg, mine.id)["state"] == "queued" and row(pg, mine.id)["crashes"] == 0
    assert row(pg, other.id)["state"] == "running"


def test_a_sweep_leaves_locked_rows_for_the_next_time(pg: Connection, test_dsn: str) -> None:
    held = new("held")
    accept(pg, held)
    pg.commit()
    other = psycopg2.connect(test_dsn)
    try:
        with other.cursor() as cur:
            cur.execute("SELECT 1 FROM ledger_request WHERE id = %s FOR UPDATE", (str(held.id),))
        with pg.cursor() as cur:
            assert ledger.detach(cur, NOW, NOW) == [], "waiting here could deadlock with a gateway"
        other.rollback()
        with pg.cursor() as cur:
            assert ledger.detach(cur, NOW, NOW) == [held.id]
    finally:
        other.close()


def test_a_cancel_tells_what_the_request_was_doing_and_erases_its_payload(pg: Connection) -> None:
    waiting, running = new(order_key=2.0), new(order_key=1.0)
    accept(pg, waiting, running)
    claim(pg, room=1)
    with pg.cursor() as cur:
        was = {
            c.id: (c.was, c.holder) for c in ledger.cancel(cur, [waiting.id, running.id], NOW, "by its owner")
        }
        assert was == {waiting.id: ("queued", None), running.id: ("running", PILOT)}
        assert ledger.cancel(cur, [waiting.id], NOW, "again") == []
        assert ledger.finish(cur, [Finish(running.id, 1, PILOT, "done", NOW)]) == []
    assert payloads(pg) == 0


def test_a_request_that_ended_is_not_moved_again(pg: Connection) -> None:
    only = new()
    accept(pg, only)
    with pg.cursor() as cur:
        ended = ledger.end_queued(
            cur, [only.id], NOW, state="expired", error_code="expired", error_text="late"
        )
        assert ended == [only.id]
        assert ledger.end_queued(cur, [only.id], NOW, state="failed", error_code="x", error_text="x") == []
    assert claim(pg) == []


@pytest.mark.parametrize(
    "wrong",
    [
        "state = 'running'",
        "state = 'done'",
        "ended_at = now()",
        "state = 'asleep'",
        "lane = 'held'",
        "holder = 'somebody'",
        "lane = 'batch'",
        "state = 'failed', ended_at = now()",
    ],
)
def test_the_database_refuses_a_state_without_its_facts(pg: Connection, wrong: str) -> None:
    accept(pg, new())
    with pg.cursor() as cur, pytest.raises(psycopg2.errors.CheckViolation):
        cur.execute(f"UPDATE ledger_request SET {wrong}")
    pg.rollback()
