"""Requests to their ends: answered, failed, taken back, or never run; and what is kept of them then."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.db.rows import named
from portal.ledger.states import Lane
from portal.ledger.transitions.traces import erase, event, tell_batches
from portal.ledger.transitions.values import Cancelled, Finish


class _FinishedRow(NamedTuple):
    id: UUID
    lane: str
    batch: UUID | None
    attempt: int


class _CancelledRow(NamedTuple):
    id: UUID
    was: str
    attempt: int
    holder: str | None
    pool: str
    replica: UUID | None
    batch: UUID | None


class _EndedRow(NamedTuple):
    id: UUID
    batch: UUID | None


def finish(cur: Cursor, rows: Sequence[Finish]) -> list[UUID]:
    """End requests that ran (running → done | failed | cancelled), for the attempt and holder named; late ones move
    nothing (invariant 6). Return those that moved.

    A held request's payload is erased; a detached one's result is kept for its owner; a batch's goes to its files."""
    if not rows:
        return []
    moved = execute_values(
        cur,
        """UPDATE ledger_request r SET
             state = v.state, ended_at = v.ended_at, first_token_at = coalesce(v.first_token_at, r.first_token_at),
             http_status = v.http_status, error_code = v.error_code, error_text = v.error_text,
             prompt_tokens = v.prompt_tokens, completion_tokens = v.completion_tokens
           FROM (VALUES %s) AS v (id, attempt, holder, state, ended_at, first_token_at, http_status, error_code,
             error_text, prompt_tokens, completion_tokens)
           WHERE r.id = v.id AND r.state = 'running' AND r.attempt = v.attempt AND r.holder = v.holder
           RETURNING r.id, r.lane, r.batch_id AS batch, r.attempt""",
        [
            (r.id, r.attempt, r.holder, r.state, r.ended_at, r.first_token_at, r.http_status, r.error_code,
             r.error_text, r.prompt_tokens, r.completion_tokens)
            for r in rows
        ],
        template="(%s::uuid, %s, %s, %s, %s::timestamptz, %s::timestamptz, %s::int, %s, %s, %s::int, %s::int)",
        page_size=len(rows),
        fetch=True,
    )  # fmt: skip
    ended = named(cur, _FinishedRow, moved)
    lanes = {row.id: row.lane for row in ended}
    results_of = {(r.id, r.attempt): r.result for r in rows}
    tell_batches(cur, [(row.batch, row.id, results_of[row.id, row.attempt]) for row in ended])
    kept = {r.id for r in rows if r.keep and r.result is not None}
    erase(cur, [id_ for id_, lane in lanes.items() if lane == Lane.HELD and id_ not in kept])
    if kept:  # only the answer is
        cur.execute(
            "UPDATE ledger_payload SET body = '' WHERE request = ANY(%s::uuid[])",
            ([str(id_) for id_ in kept & lanes.keys()],),
        )
    answered = {id_ for id_, lane in lanes.items() if lane == Lane.ASYNC or id_ in kept}
    results = [(r.id, r.result, r.result_type) for r in rows if r.result is not None and r.id in answered]
    if results:
        execute_values(
            cur,
            """UPDATE ledger_payload p SET result = v.result, result_type = v.type
               FROM (VALUES %s) AS v (id, result, type) WHERE p.request = v.id""",
            results,
            template="(%s::uuid, %s::bytea, %s)",
            page_size=len(results),
        )
    return list(lanes)


def cancel(cur: Cursor, ids: Iterable[UUID], now: datetime, reason: str) -> list[Cancelled]:
    """Cancel requests (queued | parked | running → cancelled); return what each was doing. The payload is erased;
    whoever runs it is told by the caller."""
    cur.execute(
        """UPDATE ledger_request r SET state = 'cancelled', ended_at = %s, error_code = 'cancelled'
           FROM (SELECT id, state FROM ledger_request WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE r.id = was.id AND r.state IN ('queued', 'parked', 'running')
           RETURNING r.id, was.state AS was, r.attempt, r.holder, r.pool, r.replica, r.batch_id AS batch""",
        (now, [str(i) for i in ids]),
    )
    rows = named(cur, _CancelledRow)
    moved = [Cancelled(row.id, row.was, row.attempt, row.holder, row.pool, row.replica) for row in rows]
    tell_batches(cur, [(row.batch, row.id, None) for row in rows])
    event(cur, [(m.id, now, "cancel", m.attempt, reason) for m in moved])
    erase(cur, [m.id for m in moved])
    return moved


def end_queued(
    cur: Cursor, ids: Iterable[UUID], now: datetime, *, state: str, error_code: str, error_text: str
) -> list[UUID]:
    """End requests that nobody will run (queued | parked → expired | failed); return those that moved."""
    cur.execute(
        """UPDATE ledger_request SET state = %s, ended_at = %s, error_code = %s, error_text = %s
           WHERE id = ANY(%s::uuid[]) AND state IN ('queued', 'parked') RETURNING id, batch_id AS batch""",
        (state, now, error_code, error_text, [str(i) for i in ids]),
    )
    rows = named(cur, _EndedRow)
    moved = [row.id for row in rows]
    tell_batches(cur, [(row.batch, row.id, None) for row in rows])
    erase(cur, moved)
    return moved


def erase_results(cur: Cursor, ended_before: datetime) -> int:
    """Delete the payloads of requests that ended before then; return how many."""
    cur.execute(
        """DELETE FROM ledger_payload p USING ledger_request r
           WHERE p.request = r.id AND r.ended_at < %s""",
        (ended_before,),
    )
    return cur.rowcount
