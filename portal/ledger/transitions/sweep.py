"""Moves over other processes' rows: of gateways and pilots that are gone, of limits that have refilled; and how
much there is of everything.

`detach` and `release` skip rows that someone holds locked and find them the next time round: a sweep never
waits for a gateway, so the two cannot deadlock.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.ledger.transitions import provenance
from portal.ledger.transitions.traces import event, ids_of


def unpark(cur: Cursor, ids: Iterable[UUID]) -> list[UUID]:
    """Queue requests whose limit has refilled (parked → queued), with the old order_key; return those that moved."""
    cur.execute(
        """UPDATE ledger_request SET state = 'queued' WHERE id = ANY(%s::uuid[]) AND state = 'parked' RETURNING id""",
        ([str(i) for i in ids],),
    )
    return ids_of(cur.fetchall())


def detach(cur: Cursor, stale_before: datetime, now: datetime) -> list[UUID]:
    """Queue every live request of a gateway not seen since `stale_before` for pilots (held → async); return them.

    The client is gone with its gateway; the work is not: pilots pull it, and the client finds the result
    by its request id."""
    cur.execute(
        f"""UPDATE ledger_request r
           SET lane = 'async', state = 'queued', holder = NULL, {provenance.NOBODY}
           FROM (SELECT q.id FROM ledger_request q LEFT JOIN ledger_holder h ON h.id = q.holder
                 WHERE q.lane = 'held' AND q.state IN ('queued', 'running') AND q.holder IS NOT NULL
                   AND (h.id IS NULL OR h.seen_at < %s)
                 FOR UPDATE OF q SKIP LOCKED) lost
           WHERE r.id = lost.id RETURNING r.id, r.attempt""",
        (stale_before,),
    )
    moved = cur.fetchall()
    event(cur, [(id_, now, "detach", attempt, "its gateway went away") for id_, attempt in moved])
    cur.execute("DELETE FROM ledger_holder WHERE kind = 'gateway' AND seen_at < %s", (stale_before,))
    return [id_ for id_, _ in moved]


def release(cur: Cursor, pilot: UUID, now: datetime, reason: str) -> list[UUID]:
    """Queue the rows that an ended pilot had pulled (running → queued); return them. Its end counts nothing against
    them."""
    cur.execute(
        f"""UPDATE ledger_request r
           SET state = 'queued', holder = NULL, {provenance.NOBODY}
           FROM (SELECT id FROM ledger_request WHERE holder = %s AND state = 'running'
                 FOR UPDATE SKIP LOCKED) lost
           WHERE r.id = lost.id AND r.lane <> 'held' RETURNING r.id, r.attempt""",
        (str(pilot),),
    )
    moved = cur.fetchall()
    event(cur, [(id_, now, "requeue", attempt, reason) for id_, attempt in moved])
    return [id_ for id_, _ in moved]


def heartbeat(cur: Cursor, holder: str, kind: str, now: datetime) -> None:
    """Write that a process is alive, and with it everything that it holds."""
    cur.execute(
        """INSERT INTO ledger_holder (id, kind, seen_at) VALUES (%s, %s, %s)
           ON CONFLICT (id) DO UPDATE SET seen_at = greatest(ledger_holder.seen_at, excluded.seen_at)""",
        (holder, kind, now),
    )


def fold_depth(cur: Cursor) -> dict[tuple[str, str, str], int]:
    """Sum the counters' deltas into one row each; return {(pool, lane, state): n}. One caller at a time."""
    cur.execute(
        """WITH gone AS (DELETE FROM ledger_depth RETURNING pool, lane, state, n)
           INSERT INTO ledger_depth (pool, lane, state, n)
           SELECT pool, lane, state, sum(n) FROM gone GROUP BY 1, 2, 3 HAVING sum(n) <> 0
           RETURNING pool, lane, state, n"""
    )
    return {(pool, lane, state): int(n) for pool, lane, state, n in cur.fetchall()}
