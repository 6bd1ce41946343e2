"""Requests to whoever runs them: a gateway's grant, a pilot's claim; and back in line when a try was lost."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from operator import attrgetter
from typing import NamedTuple, TypedDict
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.db.rows import first, named
from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import served
from portal.ledger.transitions.traces import erase, event, tell_batches
from portal.ledger.transitions.values import Claimed, Grant, Granted, Interrupted, Place, Span


class _GrantedRow(NamedTuple):
    id: UUID
    attempt: int
    slurm_s: float
    load_s: float


class _ClaimedRow(NamedTuple):
    """A row that was claimed. `size`: bytes of its body, wherever that lies."""

    id: UUID
    attempt: int
    api: str
    crashes: int
    order_key: float
    batch: UUID | None
    offset: int | None
    length: int | None
    size: int


class _InterruptedRow(NamedTuple):
    id: UUID
    state: str
    attempt: int
    reason: str
    batch: UUID | None


class _Payload(TypedDict):
    """The payload that lies beside a row; nothing beside a batch's, whose line is JSON and lies in its file."""

    body: bytes
    content_type: str
    engine_path: str


_NO_PAYLOAD = _Payload(body=b"", content_type="application/json", engine_path="")


def grant(cur: Cursor, grants: Sequence[Grant], now: datetime) -> dict[UUID, Granted]:
    """Hand held requests to replicas (queued → running, attempt + 1); answer for each that moved. One that is missing
    was cancelled or detached meanwhile, and its slot is to be released."""
    if not grants:
        return {}
    moved = execute_values(
        cur,
        f"""UPDATE ledger_request r
           SET state = 'running', attempt = r.attempt + 1, replica = v.replica, granted_at = v.at,
             {served.facts("r", "v.at")}
           FROM (VALUES %s) AS v (id, holder, replica, at) {served.REPLICA}
           WHERE r.id = v.id AND r.state = 'queued' AND r.lane = 'held' AND r.holder = v.holder
           RETURNING r.id, r.attempt, r.slurm_s, r.load_s""",
        [(g.id, g.holder, g.replica, now) for g in grants],
        template="(%s::uuid, %s, %s::uuid, %s::timestamptz)",
        page_size=len(grants),
        fetch=True,
    )
    rows = named(cur, _GrantedRow, moved)
    return {row.id: Granted(row.attempt, row.slurm_s, row.load_s) for row in rows}


def reattach(cur: Cursor, id_: UUID, holder: str) -> Place | None:
    """Take a request that waits, held or detached, back to be held here in its old place; None when it does not wait."""
    cur.execute(
        """UPDATE ledger_request SET lane = 'held', holder = %s
           WHERE id = %s AND state = 'queued' AND lane IN ('held', 'async')
           RETURNING order_key, accepted_at, crashes""",
        (holder, str(id_)),
    )
    return first(cur, Place)


def claim(
    cur: Cursor,
    *,
    holder: str,
    pool: str,
    replica: UUID,
    room: int,
    now: datetime,
    idle: bool = True,
    most_bytes: int = 4 * 2**20,
) -> list[Claimed]:
    """Hand async and then batch rows to a pilot (queued → running, attempt + 1), at most `room`, lowest order_key first.
    The first one whatever its length; with it no more than `most_bytes` of bodies.

    A suspect (an engine died under it before) is handed out only alone: as the only row of a claim, to a
    replica that is `idle`. Rows that others are claiming are skipped, not waited for."""
    rows: list[_ClaimedRow] = []
    for lane in (Lane.ASYNC, Lane.BATCH):
        left = room - len(rows), most_bytes - sum(row.size for row in rows)
        if min(left) <= 0:
            break
        rows += _claim_lane(cur, lane, holder, pool, replica, *left, now, "crashes = 0", not rows)
    if not rows and idle and room > 0:
        for lane in (Lane.ASYNC, Lane.BATCH):
            rows = rows or _claim_lane(
                cur, lane, holder, pool, replica, 1, most_bytes, now, "crashes > 0", True
            )
    if not rows:
        return []
    rows.sort(key=attrgetter("order_key"))
    payloads = _payloads(cur, [row.id for row in rows if row.batch is None])
    files = _input_files(cur, {row.batch for row in rows if row.batch is not None})
    return [
        Claimed(
            id=row.id,
            attempt=row.attempt,
            replica=replica,
            api=row.api,
            alone=row.crashes > 0,
            span=_span(row, files),
            **payloads.get(row.id, _NO_PAYLOAD),
        )
        for row in rows
    ]


def _span(row: _ClaimedRow, files: Mapping[UUID, UUID]) -> Span | None:
    """Return where a batch's line lies; None of a request that has its own payload."""
    if row.batch is None:
        return None
    assert row.offset is not None and row.length is not None, "a CHECK of the table"
    return Span(files[row.batch], row.offset, row.length)


def _claim_lane(
    cur: Cursor,
    lane: str,
    holder: str,
    pool: str,
    replica: UUID,
    room: int,
    most_bytes: int,
    now: datetime,
    which: str,
    at_least_one: bool,
) -> list[_ClaimedRow]:
    cur.execute(
        # MATERIALIZED runs the locking query exactly once. As a join, the planner may run it again for each
        # row of the outer side, and each run claims `room` more.
        f"""WITH next AS MATERIALIZED (
              SELECT id, order_key, coalesce(batch_length,
                (SELECT octet_length(body) FROM ledger_payload WHERE request = ledger_request.id), 0) AS size
              FROM ledger_request
              WHERE pool = %s AND lane = %s AND state = 'queued' AND {which}
              ORDER BY order_key, id LIMIT %s FOR UPDATE SKIP LOCKED),
            fits AS MATERIALIZED (
              SELECT id, size FROM (
                SELECT id, size, row_number() OVER w AS n, sum(size) OVER w AS whole FROM next
                WINDOW w AS (ORDER BY order_key, id)) summed
              WHERE whole <= %s OR (%s AND n = 1))
            UPDATE ledger_request r
            SET state = 'running', attempt = r.attempt + 1, holder = %s, replica = v.replica, granted_at = v.at,
             {served.facts("r", "v.at")}
            FROM (VALUES (%s::uuid, %s::timestamptz)) AS v (replica, at)
              {served.REPLICA}
            WHERE r.id = ANY(ARRAY(SELECT id FROM fits)) AND r.state = 'queued'
            RETURNING r.id, r.attempt, r.api, r.crashes, r.order_key, r.batch_id AS batch, r.batch_offset AS offset,
              r.batch_length AS length, (SELECT size FROM fits WHERE fits.id = r.id) AS size""",
        (pool, lane, room, most_bytes, at_least_one, holder, str(replica), now),
    )
    return named(cur, _ClaimedRow)


def _payloads(cur: Cursor, ids: Sequence[UUID]) -> dict[UUID, _Payload]:
    if not ids:
        return {}
    cur.execute(
        "SELECT request, body, content_type, engine_path FROM ledger_payload WHERE request = ANY(%s::uuid[])",
        (list(ids),),
    )
    return {
        id_: _Payload(body=bytes(body), content_type=content_type, engine_path=engine_path)
        for id_, body, content_type, engine_path in cur.fetchall()
    }


def _input_files(cur: Cursor, batches: Iterable[UUID]) -> dict[UUID, UUID]:
    wanted = list(batches)
    if not wanted:
        return {}
    cur.execute("SELECT id, input_file_id FROM ledger_batch WHERE id = ANY(%s::uuid[])", (wanted,))
    return dict(cur.fetchall())


def interrupt(
    cur: Cursor, rows: Sequence[Interrupted], now: datetime, poison_after: int
) -> tuple[list[UUID], list[UUID]]:
    """Put requests back (running → queued) with their old order_key, so that they keep their places; or fail those
    under which an engine has died `poison_after` times. Answer (requeued, poisoned)."""
    if not rows:
        return [], []
    moved = execute_values(
        cur,
        f"""UPDATE ledger_request r SET
             crashes = r.crashes + v.crashed,
             state = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN 'failed' ELSE 'queued' END,
             ended_at = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN v.at END,
             error_code = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN 'poison' END,
             error_text = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison
               THEN 'The engine died ' || (r.crashes + 1) || ' times while running this request.' END,
             holder = CASE WHEN r.lane = 'held' THEN r.holder END,
             {served.NOBODY}
           FROM (VALUES %s) AS v (id, attempt, holder, crashed, poison, at, reason)
           WHERE r.id = v.id AND r.state = 'running' AND r.attempt = v.attempt AND r.holder = v.holder
           RETURNING r.id, r.state, r.attempt, v.reason, r.batch_id AS batch""",
        [(r.id, r.attempt, r.holder, int(r.crashed), poison_after, now, r.reason) for r in rows],
        template="(%s::uuid, %s, %s, %s, %s, %s::timestamptz, %s)",
        page_size=len(rows),
        fetch=True,
    )
    rows_moved = named(cur, _InterruptedRow, moved)
    poisoned = [row for row in rows_moved if row.state == RequestState.FAILED]
    queued = [row for row in rows_moved if row.state == RequestState.QUEUED]
    event(
        cur,
        [
            *((row.id, now, "poison", row.attempt, row.reason) for row in poisoned),
            *((row.id, now, "requeue", row.attempt, row.reason) for row in queued),
        ],
    )
    erase(cur, [row.id for row in poisoned])
    tell_batches(cur, [(row.batch, row.id, None) for row in poisoned])
    return [row.id for row in queued], [row.id for row in poisoned]
