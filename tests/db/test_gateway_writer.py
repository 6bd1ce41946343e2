"""The writer: one connection, few transactions, each move once, whatever happens to the connection."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import psycopg2
import pytest
from psycopg2.extensions import connection as Connection

from portal.gateway import writer as writing
from portal.gateway.moves import Cancel, EndQueued
from portal.gateway.writer import DatabaseDown, Writer
from portal.ledger.transitions import Finish, Grant, Granted, Interrupted, NewRequest, Recorded

GATEWAY = "gw-test"


@pytest.fixture
async def writer(test_dsn: str) -> AsyncIterator[Writer]:
    made = Writer(test_dsn, GATEWAY, poison_after=3)
    made.start()
    yield made
    await made.stop()


def _new(**changes: Any) -> NewRequest:
    now = datetime.now(UTC)
    row = NewRequest(
        id=uuid.uuid4(),
        pool="p",
        model="m",
        project_id=1,
        user_id=1,
        token_id=1,
        api="/v1/completions",
        stream=False,
        lane="held",
        order_key=now.timestamp(),
        holder=GATEWAY,
        accepted_at=now,
        body=b"{}",
    )
    return replace(row, **changes)


def _row(pg: Connection, id_: uuid.UUID) -> dict[str, Any] | None:
    with pg.cursor() as cur:
        cur.execute("SELECT row_to_json(r) FROM ledger_request r WHERE id = %s", (id_,))
        found = cur.fetchone()
    pg.commit()
    return found[0] if found else None


async def _state(pg: Connection, id_: uuid.UUID, state: str) -> dict[str, Any]:
    async with asyncio.timeout(60):
        while (row := _row(pg, id_)) is None or row["state"] != state:
            await asyncio.sleep(0.01)
    return row


class LosingLink:
    """A connection whose first COMMIT happens, but whose answer is lost."""

    def __init__(self, link: Connection) -> None:
        self._link = link
        self.losses = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def commit(self) -> None:
        self._link.commit()
        self.losses += 1
        self._link.close()
        raise psycopg2.OperationalError("server closed the connection unexpectedly")


def _lose_next_commit(writer: Writer) -> None:
    """Let the next transaction commit without learning it."""
    original = writer._connection

    def connection() -> Any:
        writer._connection = original  # type: ignore[method-assign]
        return LosingLink(original())

    writer._connection = connection  # type: ignore[method-assign]


async def test_many_moves_share_few_transactions(writer: Writer, pg: Connection) -> None:
    rows = [_new() for _ in range(300)]
    before = writer.batches
    await asyncio.gather(*(writer.accept(row) for row in rows))
    assert writer.batches - before < 30
    assert all(_row(pg, row.id) for row in rows[::50])


async def test_a_request_goes_its_whole_way(writer: Writer, pg: Connection) -> None:
    row = _new()
    await writer.accept(row)
    replica = uuid.uuid4()
    assert await writer.grant(Grant(row.id, GATEWAY, replica)) == Granted(1)
    assert await writer.grant(Grant(row.id, GATEWAY, replica)) is None
    assert await writer.interrupt(Interrupted(row.id, 1, GATEWAY, "refused: full")) == "queued"
    assert await writer.interrupt(Interrupted(row.id, 1, GATEWAY, "again")) is None
    assert await writer.grant(Grant(row.id, GATEWAY, replica)) == Granted(2)
    writer.later(Finish(row.id, 1, GATEWAY, "done", datetime.now(UTC)))  # late: of another attempt
    writer.later(Finish(row.id, 2, GATEWAY, "done", datetime.now(UTC), prompt_tokens=5))
    found = await _state(pg, row.id, "done")
    assert (found["attempt"], found["prompt_tokens"]) == (2, 5)
    assert await writer.look(row.id) == ("done", "held")
    assert await writer.look(uuid.uuid4()) is None


async def test_an_accept_whose_commit_is_not_heard_is_accepted_once(writer: Writer, pg: Connection) -> None:
    row = _new()
    _lose_next_commit(writer)
    await writer.accept(row)
    assert await _state(pg, row.id, "queued")
    with pg.cursor() as cur:
        cur.execute("SELECT count(*) FROM ledger_payload")
        assert cur.fetchone() == (1,)


async def test_a_grant_whose_commit_is_not_heard_counts_once(writer: Writer, pg: Connection) -> None:
    row = _new()
    await writer.accept(row)
    _lose_next_commit(writer)
    assert await writer.grant(Grant(row.id, GATEWAY, uuid.uuid4())) == Granted(1)
    assert (await _state(pg, row.id, "running"))["attempt"] == 1


async def test_an_interrupt_whose_commit_is_not_heard_counts_its_crash_once(
    writer: Writer, pg: Connection
) -> None:
    row = _new()
    await writer.accept(row)
    await writer.grant(Grant(row.id, GATEWAY, uuid.uuid4()))
    _lose_next_commit(writer)
    assert await writer.interrupt(Interrupted(row.id, 1, GATEWAY, "crash", crashed=True)) == "queued"
    assert (await _state(pg, row.id, "queued"))["crashes"] == 1


async def test_a_connection_that_is_cut_is_made_anew(writer: Writer, pg: Connection) -> None:
    await writer.accept(_new())
    with pg.cursor() as cur:
        cur.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = %s",
            (f"berth {GATEWAY}",),
        )
        assert cur.fetchall() == [(True,)]
    pg.commit()
    row = _new()
    await writer.accept(row)
    assert await _state(pg, row.id, "queued")


async def test_a_row_that_the_database_refuses_does_not_take_its_neighbours_along(
    writer: Writer, pg: Connection
) -> None:
    good = [_new() for _ in range(5)]
    bad = _new(lane="no such lane"[:5])
    answers = await asyncio.gather(
        *(writer.accept(row) for row in [*good[:2], bad, *good[2:]]), return_exceptions=True
    )
    assert isinstance(answers[2], psycopg2.Error)
    assert [answer for answer in answers if answer is not None] == [answers[2]]
    assert all(_row(pg, row.id) for row in good) and _row(pg, bad.id) is None


async def test_while_the_database_is_away_callers_are_told_and_what_they_gave_up_never_happens(
    writer: Writer, pg: Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    await writer.accept(_new())
    url, writer._url = writer._url, "postgresql://nobody@127.0.0.1:9/none"
    writer._drop_link()
    monkeypatch.setattr(writing, "PATIENCE_S", 0.3)
    lost, ended = _new(), _new()
    with pytest.raises(DatabaseDown):
        await writer.accept(lost)
    writer.later(Cancel(lost.id, "given up"))
    writer.record(_recorded(ended))
    writer._url = url  # it is back
    assert (await _state(pg, ended.id, "done"))["attempt"] == 1
    assert _row(pg, lost.id) is None


def _recorded(row: NewRequest) -> Recorded:
    now = datetime.now(UTC)
    return Recorded(
        id=row.id, pool="p", model="m", project_id=1, user_id=1, token_id=1, api=row.api, stream=False,
        holder=GATEWAY, replica=uuid.uuid4(), state="done", accepted_at=now, granted_at=now, first_token_at=now,
        ended_at=now, http_status=200, error_code=None, error_text=None, prompt_tokens=1, completion_tokens=1,
    )  # fmt: skip


async def test_a_cancel_finds_whatever_came_before_it(writer: Writer, pg: Connection) -> None:
    rows = [_new() for _ in range(20)]
    asking = [asyncio.ensure_future(writer.accept(row)) for row in rows]
    await asyncio.sleep(0)
    for task, row in zip(asking, rows, strict=True):
        task.cancel()
        writer.later(Cancel(row.id, "its client left"))
    await asyncio.gather(*asking, return_exceptions=True)
    last = _new()
    await writer.accept(last)
    await writer.accept(_new())
    assert all((_row(pg, row.id) or {"state": "cancelled"})["state"] == "cancelled" for row in rows)


async def test_an_expired_wait_leaves_no_payload(writer: Writer, pg: Connection) -> None:
    row = _new()
    await writer.accept(row)
    writer.later(EndQueued(row.id, "expired", "model_starting", "not ready"))
    found = await _state(pg, row.id, "expired")
    assert found["error_code"] == "model_starting"
    with pg.cursor() as cur:
        cur.execute("SELECT count(*) FROM ledger_payload")
        assert cur.fetchone() == (0,)


async def test_a_gateway_says_that_it_is_alive_from_the_start(writer: Writer, pg: Connection) -> None:
    async with asyncio.timeout(60):
        found = None
        while not found:
            with pg.cursor() as cur:
                cur.execute("SELECT id, kind, seen_at > now() - interval '5 s' FROM ledger_holder")
                found = cur.fetchall()
            pg.commit()
            await asyncio.sleep(0.01)
    assert found == [(GATEWAY, "gateway", True)]
