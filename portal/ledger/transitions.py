"""The only code that moves a request from one state to another.

Set-based SQL over a plain psycopg2 cursor: a list goes in, what really moved comes out. Every move names
the state, the attempt and the holder that it expects, so a caller that lost a race moves nothing and learns
it from the answer (invariant 3). The caller commits. No Django here: gateways and the worker API have none.

Sweeps over other processes' rows (`detach`, `release`) skip rows that someone holds locked and find them
the next time round: a sweep never waits for a gateway, so the two cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request to accept: it enters its pool's queue."""

    id: UUID
    pool: str
    model: str
    project_id: int
    user_id: int
    token_id: int | None
    api: str
    stream: bool
    lane: str  # held | async
    order_key: float
    holder: str | None  # the gateway's id for the held lane, else None
    accepted_at: datetime
    body: bytes
    expires_at: datetime | None = None
    priority: int = 0
    crashes: int = 0  # an engine died under it before it was accepted, on the hot path
    state: str = "queued"  # | parked: over a limit that refills, where nobody waits


@dataclass(frozen=True, slots=True)
class Recorded:
    """A hot stream that never waited, written once, at its end."""

    id: UUID
    pool: str
    model: str
    project_id: int
    user_id: int
    token_id: int | None
    api: str
    stream: bool
    holder: str
    replica: UUID
    state: str  # done | failed | cancelled
    accepted_at: datetime
    granted_at: datetime
    first_token_at: datetime | None
    ended_at: datetime
    http_status: int | None
    error_code: str | None
    error_text: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Grant:
    id: UUID
    holder: str
    replica: UUID


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A running request that could not end where it ran. Only an engine's death counts against it."""

    id: UUID
    attempt: int
    holder: str
    reason: str
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    id: UUID
    attempt: int
    holder: str
    state: str  # done | failed | cancelled
    ended_at: datetime
    first_token_at: datetime | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_text: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    result: bytes | None = None
    keep: bool = False  # also of a held request: it has an Idempotency-Key


@dataclass(frozen=True, slots=True)
class Span:
    """Where a batch's line lies: nothing of it is copied into the ledger."""

    file: UUID
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """Where a queued request stands, and how it got there."""

    order_key: float
    accepted_at: datetime
    crashes: int


@dataclass(frozen=True, slots=True)
class Claimed:
    id: UUID
    attempt: int
    replica: UUID
    api: str
    alone: bool  # an engine died under it before: it runs alone
    body: bytes  # b"" where there is a span
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What a cancelled request was doing, so that whoever runs it can be told."""

    id: UUID
    was: str
    attempt: int
    holder: str | None
    pool: str
    replica: UUID | None


def accept(cur: Cursor, rows: Sequence[NewRequest]) -> list[UUID]:
    """→ queued | parked. Accepted once the caller has committed. A row whose id is known already is left alone."""
    if not rows:
        return []
    taken = _ids(
        execute_values(
            cur,
            """INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane,
                 priority, order_key, state, attempt, crashes, holder, accepted_at, expires_at)
               VALUES %s ON CONFLICT (id) DO NOTHING RETURNING id""",
            [
                (r.id, r.pool, r.model, r.project_id, r.user_id, r.token_id, r.api, r.stream, r.lane,
                 r.priority, r.order_key, r.state, r.crashes, r.holder, r.accepted_at, r.expires_at)
                for r in rows
            ],
            template="(%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,0,%s,%s,%s,%s)",
            page_size=len(rows),
            fetch=True,
        )
    )  # fmt: skip
    new = set(taken)
    bodies = [(r.id, r.body) for r in rows if r.id in new]
    if bodies:
        execute_values(
            cur, "INSERT INTO ledger_payload (request, body) VALUES %s", bodies, page_size=len(bodies)
        )
    return taken


def record(cur: Cursor, rows: Sequence[Recorded]) -> list[UUID]:
    """→ done | failed | cancelled, in one step: what a client already saw. No payload is kept."""
    if not rows:
        return []
    return _ids(
        execute_values(
            cur,
            """INSERT INTO ledger_request (id, pool, model, project_id, user_id, token_id, api, stream, lane,
                 priority, order_key, state, attempt, crashes, holder, replica, accepted_at, granted_at,
                 first_token_at, ended_at, http_status, error_code, error_text, prompt_tokens, completion_tokens)
               VALUES %s ON CONFLICT (id) DO NOTHING RETURNING id""",
            [
                (r.id, r.pool, r.model, r.project_id, r.user_id, r.token_id, r.api, r.stream,
                 r.accepted_at.timestamp(), r.state, r.holder, r.replica, r.accepted_at, r.granted_at,
                 r.first_token_at, r.ended_at, r.http_status, r.error_code, r.error_text, r.prompt_tokens,
                 r.completion_tokens)
                for r in rows
            ],
            template="(%s,%s,%s,%s,%s,%s,%s,%s,'held',0,%s,%s,1,0,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s,%s)",
            page_size=len(rows),
            fetch=True,
        )
    )  # fmt: skip


def grant(cur: Cursor, grants: Sequence[Grant], now: datetime) -> dict[UUID, int]:
    """held: queued → running, attempt + 1. Answers the new attempt of each that moved; one that is missing
    was cancelled or detached meanwhile, and its slot is to be released."""
    if not grants:
        return {}
    moved = execute_values(
        cur,
        """UPDATE ledger_request r
           SET state = 'running', attempt = r.attempt + 1, replica = v.replica, granted_at = v.at
           FROM (VALUES %s) AS v (id, holder, replica, at)
           WHERE r.id = v.id AND r.state = 'queued' AND r.lane = 'held' AND r.holder = v.holder
           RETURNING r.id, r.attempt""",
        [(g.id, g.holder, g.replica, now) for g in grants],
        template="(%s::uuid, %s, %s::uuid, %s::timestamptz)",
        page_size=len(grants),
        fetch=True,
    )
    return {UUID(str(id_)): attempt for id_, attempt in moved}


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
    cur: Cursor, *, holder: str, pool: str, replica: UUID, room: int, now: datetime, idle: bool = True
) -> list[Claimed]:
    """async, then batch: queued → running, attempt + 1, at most `room` rows, lowest order_key first.

    A suspect (an engine died under it before) is handed out only alone: as the only row of a claim, to a
    replica that is `idle`. Rows that others are claiming are skipped, not waited for."""
    rows: list[Any] = []
    for lane in ("async", "batch"):
        left = room - len(rows)
        if left <= 0:
            break
        rows += _claim_lane(cur, lane, holder, pool, replica, left, now, "crashes = 0")
    if not rows and idle and room > 0:
        for lane in ("async", "batch"):
            rows = rows or _claim_lane(cur, lane, holder, pool, replica, 1, now, "crashes > 0")
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
        for i, attempt, api, crashes, order_key, batch, offset, length in rows
    ]  # fmt: skip


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


def _claim_lane(
    cur: Cursor, lane: str, holder: str, pool: str, replica: UUID, room: int, now: datetime, which: str
) -> list[Any]:
    cur.execute(
        # ARRAY(…) runs the locking subquery exactly once. As a join, the planner may run it again for each
        # row of the outer side, and each run claims `room` more.
        f"""UPDATE ledger_request
            SET state = 'running', attempt = attempt + 1, holder = %s, replica = %s, granted_at = %s
            WHERE id = ANY(ARRAY(
                SELECT id FROM ledger_request
                WHERE pool = %s AND lane = %s AND state = 'queued' AND {which}
                ORDER BY order_key, id LIMIT %s FOR UPDATE SKIP LOCKED)) AND state = 'queued'
            RETURNING id, attempt, api, crashes, order_key, batch_id, batch_offset, batch_length""",
        (holder, str(replica), now, pool, lane, room),
    )
    return cur.fetchall()


def interrupt(
    cur: Cursor, rows: Sequence[Interrupted], now: datetime, poison_after: int
) -> tuple[list[UUID], list[UUID]]:
    """running → queued with its old order_key, so that it keeps its place; or → failed once an engine has died
    under it `poison_after` times. Answers (requeued, poisoned)."""
    if not rows:
        return [], []
    moved = execute_values(
        cur,
        """UPDATE ledger_request r SET
             crashes = r.crashes + v.crashed,
             state = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN 'failed' ELSE 'queued' END,
             ended_at = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN v.at END,
             error_code = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison THEN 'poison' END,
             error_text = CASE WHEN v.crashed = 1 AND r.crashes + 1 >= v.poison
               THEN 'The engine died ' || (r.crashes + 1) || ' times while running this request.' END,
             holder = CASE WHEN r.lane = 'held' THEN r.holder END,
             replica = NULL, first_token_at = NULL
           FROM (VALUES %s) AS v (id, attempt, holder, crashed, poison, at, reason)
           WHERE r.id = v.id AND r.state = 'running' AND r.attempt = v.attempt AND r.holder = v.holder
           RETURNING r.id, r.state, r.attempt, v.reason, r.batch_id""",
        [(r.id, r.attempt, r.holder, int(r.crashed), poison_after, now, r.reason) for r in rows],
        template="(%s::uuid, %s, %s, %s, %s, %s::timestamptz, %s)",
        page_size=len(rows),
        fetch=True,
    )
    poisoned = [UUID(str(m[0])) for m in moved if m[1] == "failed"]
    _event(cur, [(m[0], now, "poison" if m[1] == "failed" else "requeue", m[2], m[3]) for m in moved])
    _erase(cur, poisoned)
    _tell_batches(cur, [(m[4], m[0], None) for m in moved if m[1] == "failed"])
    return [UUID(str(m[0])) for m in moved if m[1] == "queued"], poisoned


def finish(cur: Cursor, rows: Sequence[Finish]) -> list[UUID]:
    """running → done | failed | cancelled, for the attempt and holder named; late ones move nothing (invariant 6).

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
           RETURNING r.id, r.lane, r.batch_id, r.attempt""",
        [
            (r.id, r.attempt, r.holder, r.state, r.ended_at, r.first_token_at, r.http_status, r.error_code,
             r.error_text, r.prompt_tokens, r.completion_tokens)
            for r in rows
        ],
        template="(%s::uuid, %s, %s, %s, %s::timestamptz, %s::timestamptz, %s::int, %s, %s, %s::int, %s::int)",
        page_size=len(rows),
        fetch=True,
    )  # fmt: skip
    lanes = {UUID(str(id_)): lane for id_, lane, _, _ in moved}
    said = {(r.id, r.attempt): r.result for r in rows}
    _tell_batches(cur, [(batch, id_, said[UUID(str(id_)), attempt]) for id_, _, batch, attempt in moved])
    kept = {r.id for r in rows if r.keep and r.result is not None}
    _erase(cur, [id_ for id_, lane in lanes.items() if lane == "held" and id_ not in kept])
    if kept:  # only the answer is
        cur.execute(
            "UPDATE ledger_payload SET body = '' WHERE request = ANY(%s::uuid[])",
            ([str(id_) for id_ in kept & lanes.keys()],),
        )
    answered = {id_ for id_, lane in lanes.items() if lane == "async" or id_ in kept}
    results = [(r.id, r.result) for r in rows if r.result is not None and r.id in answered]
    if results:
        execute_values(
            cur,
            "UPDATE ledger_payload p SET result = v.result FROM (VALUES %s) AS v (id, result) WHERE p.request = v.id",
            results,
            template="(%s::uuid, %s::bytea)",
            page_size=len(results),
        )
    return list(lanes)


def cancel(cur: Cursor, ids: Iterable[UUID], now: datetime, reason: str) -> list[Cancelled]:
    """queued | parked | running → cancelled. The payload is erased; whoever runs it is told by the caller."""
    cur.execute(
        """UPDATE ledger_request r SET state = 'cancelled', ended_at = %s, error_code = 'cancelled'
           FROM (SELECT id, state FROM ledger_request WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE r.id = was.id AND r.state IN ('queued', 'parked', 'running')
           RETURNING r.id, was.state, r.attempt, r.holder, r.pool, r.replica, r.batch_id""",
        (now, [str(i) for i in ids]),
    )
    found = cur.fetchall()
    moved = [
        Cancelled(UUID(str(i)), was, attempt, holder, pool, UUID(str(replica)) if replica else None)
        for i, was, attempt, holder, pool, replica, _ in found
    ]
    _tell_batches(cur, [(row[6], row[0], None) for row in found])
    _event(cur, [(m.id, now, "cancel", m.attempt, reason) for m in moved])
    _erase(cur, [m.id for m in moved])
    return moved


def end_queued(
    cur: Cursor, ids: Iterable[UUID], now: datetime, *, state: str, error_code: str, error_text: str
) -> list[UUID]:
    """queued | parked → expired | failed, for requests that nobody will run."""
    cur.execute(
        """UPDATE ledger_request SET state = %s, ended_at = %s, error_code = %s, error_text = %s
           WHERE id = ANY(%s::uuid[]) AND state IN ('queued', 'parked') RETURNING id, batch_id""",
        (state, now, error_code, error_text, [str(i) for i in ids]),
    )
    found = cur.fetchall()
    moved = _ids(found)
    _tell_batches(cur, [(batch, id_, None) for id_, batch in found])
    _erase(cur, moved)
    return moved


def unpark(cur: Cursor, ids: Iterable[UUID]) -> list[UUID]:
    """parked → queued, with the old order_key: the limit has refilled."""
    cur.execute(
        """UPDATE ledger_request SET state = 'queued' WHERE id = ANY(%s::uuid[]) AND state = 'parked' RETURNING id""",
        ([str(i) for i in ids],),
    )
    return _ids(cur.fetchall())


def detach(cur: Cursor, stale_before: datetime, now: datetime) -> list[UUID]:
    """held → async, queued, for every live request of a gateway not seen since `stale_before`.

    The client is gone with its gateway; the work is not: pilots pull it, and the client finds the result
    by its request id."""
    cur.execute(
        """UPDATE ledger_request r
           SET lane = 'async', state = 'queued', holder = NULL, replica = NULL, first_token_at = NULL
           FROM (SELECT q.id FROM ledger_request q LEFT JOIN ledger_holder h ON h.id = q.holder
                 WHERE q.lane = 'held' AND q.state IN ('queued', 'running')
                   AND (h.id IS NULL OR h.seen_at < %s)
                 FOR UPDATE OF q SKIP LOCKED) lost
           WHERE r.id = lost.id RETURNING r.id, r.attempt""",
        (stale_before,),
    )
    moved = cur.fetchall()
    _event(cur, [(id_, now, "detach", attempt, "its gateway went away") for id_, attempt in moved])
    cur.execute("DELETE FROM ledger_holder WHERE kind = 'gateway' AND seen_at < %s", (stale_before,))
    return _ids(moved)


def release(cur: Cursor, pilot: UUID, now: datetime, reason: str) -> list[UUID]:
    """running → queued for the rows that an ended pilot had pulled. Its end counts nothing against them."""
    cur.execute(
        """UPDATE ledger_request r
           SET state = 'queued', holder = NULL, replica = NULL, first_token_at = NULL
           FROM (SELECT id FROM ledger_request WHERE holder = %s AND state = 'running'
                 FOR UPDATE SKIP LOCKED) lost
           WHERE r.id = lost.id AND r.lane <> 'held' RETURNING r.id, r.attempt""",
        (str(pilot),),
    )
    moved = cur.fetchall()
    _event(cur, [(id_, now, "requeue", attempt, reason) for id_, attempt in moved])
    return _ids(moved)


def heartbeat(cur: Cursor, holder: str, kind: str, now: datetime) -> None:
    """Says that a process is alive, and with it everything it holds."""
    cur.execute(
        """INSERT INTO ledger_holder (id, kind, seen_at) VALUES (%s, %s, %s)
           ON CONFLICT (id) DO UPDATE SET seen_at = greatest(ledger_holder.seen_at, excluded.seen_at)""",
        (holder, kind, now),
    )


def fold_depth(cur: Cursor) -> dict[tuple[str, str, str], int]:
    """Sums the counters' deltas into one row each and answers {(pool, lane, state): n}. One caller at a time."""
    cur.execute(
        """WITH gone AS (DELETE FROM ledger_depth RETURNING pool, lane, state, n)
           INSERT INTO ledger_depth (pool, lane, state, n)
           SELECT pool, lane, state, sum(n) FROM gone GROUP BY 1, 2, 3 HAVING sum(n) <> 0
           RETURNING pool, lane, state, n"""
    )
    return {(pool, lane, state): int(n) for pool, lane, state, n in cur.fetchall()}


def erase_results(cur: Cursor, ended_before: datetime) -> int:
    """Deletes payloads of requests that ended before then. Answers how many."""
    cur.execute(
        """DELETE FROM ledger_payload p USING ledger_request r
           WHERE p.request = r.id AND r.ended_at < %s""",
        (ended_before,),
    )
    return cur.rowcount


def _tell_batches(cur: Cursor, ends: Sequence[tuple[Any, Any, bytes | None]]) -> None:
    """Puts ended lines of batches, with their results, where the batch's files are written from. Rows without a
    batch are passed over."""
    lines = [end for end in ends if end[0] is not None]
    if lines:
        execute_values(
            cur,
            "INSERT INTO ledger_batchend (batch_id, request_id, result) VALUES %s",
            lines,
            template="(%s::uuid, %s::uuid, %s::bytea)",
            page_size=len(lines),
        )


def _ids(rows: Iterable[Any]) -> list[UUID]:
    return [UUID(str(row[0])) for row in rows]


def _event(cur: Cursor, events: Sequence[tuple[Any, ...]]) -> None:
    if events:
        execute_values(
            cur,
            "INSERT INTO ledger_requestevent (request_id, at, kind, attempt, detail) VALUES %s",
            events,
            page_size=len(events),
        )


def _erase(cur: Cursor, ids: Sequence[UUID]) -> None:
    if ids:
        cur.execute("DELETE FROM ledger_payload WHERE request = ANY(%s::uuid[])", ([str(i) for i in ids],))
