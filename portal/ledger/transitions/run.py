"""Requests to whoever runs them: a gateway's grant, a pilot's claim; and back in line when a try was lost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import served
from portal.ledger.transitions.traces import erase, event, tell_batches
from portal.ledger.transitions.values import Claimed, Grant, Granted, Interrupted, Place, Span


def grant(cur: Cursor, grants: Sequence[Grant], now: datetime) -> dict[UUID, Granted]:
    """held: queued → running, attempt + 1. Answers for each that moved; one that is missing was
    cancelled or detached meanwhile, and its slot is to be released."""
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
    return {UUID(str(id_)): Granted(attempt, slurm_s, load_s) for id_, attempt, slurm_s, load_s in moved}


def reattach(cur: Cursor, id_: UUID, holder: str) -> Place | None:
    """queued, held or detached → queued and held here, in its old place; None when it does not wait any more."""
    cur.execute(
        """UPDATE ledger_request SET lane = 'held', holder = %s
           WHERE id = %s AND state = 'queued' AND lane IN ('held', 'async')
           RETURNING order_key, accepted_at, crashes""",
        (holder, str(id_)),
    )
    found = cur.fetchone()
    return None if found is None else Place(*found)


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
    """async, then batch: queued → running, attempt + 1, at most `room` rows, lowest order_key first. The first one
    whatever its length; with it no more than `most_bytes` of bodies.

    A suspect (an engine died under it before) is handed out only alone: as the only row of a claim, to a
    replica that is `idle`. Rows that others are claiming are skipped, not waited for."""
    rows: list[Any] = []
    for lane in (Lane.ASYNC, Lane.BATCH):
        left = room - len(rows), most_bytes - sum(row[8] for row in rows)
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
    rows.sort(key=lambda r: r[4])
    bodies = _bodies(cur, [r[0] for r in rows if r[5] is None])
    files = _input_files(cur, {r[5] for r in rows if r[5] is not None})
    return [
        Claimed(
            UUID(str(i)), attempt, replica, api, crashes > 0, bodies.get(UUID(str(i)), b""),
            None if batch is None else Span(files[UUID(str(batch))], offset, length),
        )
        for i, attempt, api, crashes, order_key, batch, offset, length, _ in rows
    ]  # fmt: skip


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
) -> list[Any]:
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
            RETURNING r.id, r.attempt, r.api, r.crashes, r.order_key, r.batch_id, r.batch_offset, r.batch_length,
              (SELECT size FROM fits WHERE fits.id = r.id)""",
        (pool, lane, room, most_bytes, at_least_one, holder, str(replica), now),
    )
    return cur.fetchall()


def _bodies(cur: Cursor, ids: Sequence[Any]) -> dict[UUID, bytes]:
    if not ids:
        return {}
    cur.execute("SELECT request, body FROM ledger_payload WHERE request = ANY(%s::uuid[])", (list(ids),))
    return {UUID(str(id_)): bytes(body) for id_, body in cur.fetchall()}


def _input_files(cur: Cursor, batches: Iterable[Any]) -> dict[UUID, UUID]:
    wanted = list(batches)
    if not wanted:
        return {}
    cur.execute("SELECT id, input_file_id FROM ledger_batch WHERE id = ANY(%s::uuid[])", (wanted,))
    return {UUID(str(id_)): UUID(str(file)) for id_, file in cur.fetchall()}


def interrupt(
    cur: Cursor, rows: Sequence[Interrupted], now: datetime, poison_after: int
) -> tuple[list[UUID], list[UUID]]:
    """running → queued with its old order_key, so that it keeps its place; or → failed once an engine has died
    under it `poison_after` times. Answers (requeued, poisoned)."""
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
           RETURNING r.id, r.state, r.attempt, v.reason, r.batch_id""",
        [(r.id, r.attempt, r.holder, int(r.crashed), poison_after, now, r.reason) for r in rows],
        template="(%s::uuid, %s, %s, %s, %s, %s::timestamptz, %s)",
        page_size=len(rows),
        fetch=True,
    )
    poisoned = [UUID(str(m[0])) for m in moved if m[1] == RequestState.FAILED]
    event(
        cur, [(m[0], now, "poison" if m[1] == RequestState.FAILED else "requeue", m[2], m[3]) for m in moved]
    )
    erase(cur, poisoned)
    tell_batches(cur, [(m[4], m[0], None) for m in moved if m[1] == RequestState.FAILED])
    return [UUID(str(m[0])) for m in moved if m[1] == RequestState.QUEUED], poisoned
