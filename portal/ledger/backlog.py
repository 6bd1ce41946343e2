"""What waits in a lane of a pool → the fair order's state, when Redis has lost it or is away.

Separate from `transitions`: it moves nothing. It reads the whole line, so it is asked only then.
"""

from __future__ import annotations

from collections.abc import Iterable
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.policy.fairshare import PRIORITIES, Line


def line(cur: Cursor, pool: str, lane: str) -> Line:
    """Return how a lane of a pool stands. Virtual time: the lowest key that waits, or else the highest that runs. A
    project's next request starts behind its own that wait: new keys never fall below those that stand already."""
    cur.execute(
        # State by state: each has a partial index, and `state IN (…)` would read every request that ever ended.
        """SELECT project_id, priority, running, min(order_key), max(order_key) FROM (
             SELECT project_id, priority, order_key, false AS running FROM ledger_request
             WHERE pool = %(pool)s AND lane = %(lane)s AND state = 'queued'
             UNION ALL
             SELECT project_id, priority, order_key, false FROM ledger_request
             WHERE pool = %(pool)s AND lane = %(lane)s AND state = 'parked'
             UNION ALL
             SELECT project_id, priority, order_key, true FROM ledger_request
             WHERE pool = %(pool)s AND lane = %(lane)s AND state = 'running') live
           GROUP BY 1, 2, 3""",
        {"pool": pool, "lane": lane},
    )
    rows = cur.fetchall()
    waiting = [low for _, _, running, low, _ in rows if not running]
    running = [high for _, _, running, _, high in rows if running]
    finishes: dict[tuple[int, int], float] = {}
    for project, priority, _, _, high in rows:
        for level in (p for p in PRIORITIES if p <= priority):
            # The costs are not kept: what was reserved for its last one counts as one token.
            finishes[project, level] = max(finishes.get((project, level), 0.0), high + 1.0)
    return Line(vtime=min(waiting, default=max(running, default=0.0)), finishes=finishes)


def lines_left(cur: Cursor, rows: Iterable[UUID]) -> list[tuple[str, str, int]]:
    """Return (pool, lane, project) of those among the rows' lines in which nothing of the project waits any more."""
    cur.execute(
        """SELECT DISTINCT e.pool, e.lane, e.project_id FROM ledger_request e
           WHERE e.id = ANY(%s::uuid[])
             AND NOT EXISTS (SELECT 1 FROM ledger_request w WHERE w.pool = e.pool AND w.lane = e.lane
               AND w.project_id = e.project_id AND w.state = 'queued')
             AND NOT EXISTS (SELECT 1 FROM ledger_request w WHERE w.pool = e.pool AND w.lane = e.lane
               AND w.project_id = e.project_id AND w.state = 'parked')""",
        ([str(row) for row in rows],),
    )
    return [(pool, lane, project) for pool, lane, project in cur.fetchall()]


def furthest(cur: Cursor, rows: Iterable[UUID]) -> list[tuple[str, str, float]]:
    """Return (pool, lane, highest order key) of rows that have just been claimed."""
    cur.execute(
        "SELECT pool, lane, max(order_key) FROM ledger_request WHERE id = ANY(%s::uuid[]) GROUP BY 1, 2",
        ([str(row) for row in rows],),
    )
    return [(pool, lane, key) for pool, lane, key in cur.fetchall()]
