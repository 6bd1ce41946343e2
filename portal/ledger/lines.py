"""Live requests → how many of each project wait for, run on and are parked for each model. SELECTs only.

Separate from `backlog`, which serves the fair order: this is for people who look at the queue.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import named
from portal.ledger.states import RequestState

# Of each state. Batches are queued whole, so there may be any number of rows; a page has a moment.
MOST_COUNTED = 100_000
NEXT_FEW = 20


@dataclass(slots=True)
class Line:
    """The requests that one project has in one model's queue. `waiting`: by lane. `oldest`: of those that wait or are
    parked."""

    pool: str
    model: str
    project_id: int
    waiting: dict[str, int] = field(default_factory=dict)
    running: int = 0
    parked: int = 0
    oldest: datetime | None = None


class _Counted(NamedTuple):
    """Count the requests of one project in one state and lane of a model, with the time when the oldest was accepted."""

    pool: str
    model: str
    project_id: int
    lane: str
    state: str
    n: int
    oldest: datetime


@dataclass(frozen=True, slots=True)
class Parked:
    """The first of those that one project has parked for a model, and how many bytes it asks with."""

    token_id: int | None
    user_id: int
    project_id: int
    model: str
    length: int
    api: str


def lines(cur: Cursor) -> list[Line]:
    """Return what each project has in each model's queue, the longest wait first."""
    cur.execute(
        # State by state: each has a partial index, and `state IN (…)` would read every request that ever ended.
        """SELECT pool, model, project_id, lane, state, count(*) AS n, min(accepted_at) AS oldest FROM (
             (SELECT * FROM ledger_request WHERE state = 'queued' LIMIT %(most)s)
             UNION ALL (SELECT * FROM ledger_request WHERE state = 'parked' LIMIT %(most)s)
             UNION ALL (SELECT * FROM ledger_request WHERE state = 'running' LIMIT %(most)s)) live
           GROUP BY 1, 2, 3, 4, 5""",
        {"most": MOST_COUNTED},
    )
    found: dict[tuple[str, str, int], Line] = {}
    for row in named(cur, _Counted):
        key = row.pool, row.model, row.project_id
        line = found.setdefault(key, Line(*key))
        if row.state == RequestState.RUNNING:
            line.running += row.n
            continue
        if row.state == RequestState.QUEUED:
            line.waiting[row.lane] = row.n
        else:
            line.parked += row.n
        line.oldest = min(filter(None, (line.oldest, row.oldest)))
    return sorted(found.values(), key=_by_wait)


def depths(cur: Cursor) -> dict[str, int]:
    """Return how many requests there are by state, however many."""
    cur.execute("SELECT state, greatest(sum(n), 0) FROM ledger_depth GROUP BY state")
    return {state: int(n) for state, n in cur.fetchall()}


def first_parked(cur: Cursor, lines: Sequence[Line]) -> list[Parked]:
    """Return, of each of the lines that has parked requests, the one that goes on first."""
    cur.execute(
        """SELECT DISTINCT ON (r.project_id, r.model) r.token_id, r.user_id, r.project_id, r.model,
             coalesce(r.batch_length, octet_length(p.body), 0) AS length, r.api
           FROM (SELECT * FROM ledger_request WHERE state = 'parked' LIMIT %s) r
             JOIN unnest(%s::bigint[], %s::text[]) line (project, model)
               ON line.project = r.project_id AND line.model = r.model
             LEFT JOIN ledger_payload p ON p.request = r.id
           ORDER BY r.project_id, r.model, r.order_key""",
        (MOST_COUNTED, [line.project_id for line in lines], [line.model for line in lines]),
    )
    return named(cur, Parked)


def oldest(cur: Cursor) -> dict[str, datetime]:
    """Return by pool since when the oldest waits of the next few in line. Batches are filler: they may wait.

    The order is fair, so every project's first is among the next few, unless there are very many projects. However
    long a line is, no more of it is read."""
    cur.execute(
        """SELECT pool, min(accepted_at) FROM (
             SELECT pool, lane FROM ledger_depth WHERE state = 'queued' AND lane <> 'batch'
             GROUP BY 1, 2 HAVING sum(n) > 0) waiting
           CROSS JOIN LATERAL (
             SELECT accepted_at FROM ledger_request r
             WHERE r.state = 'queued' AND r.pool = waiting.pool AND r.lane = waiting.lane
             ORDER BY order_key, id LIMIT %s) next
           GROUP BY 1""",
        (NEXT_FEW,),
    )
    return dict(cur.fetchall())


def uncounted(depth: dict[str, int]) -> bool:
    """Say whether there is more than was counted by project."""
    return any(n > MOST_COUNTED for n in depth.values())


def _by_wait(line: Line) -> tuple[bool, float, str, str]:
    waits = line.oldest is not None
    return (not waits, line.oldest.timestamp() if line.oldest else 0.0, line.pool, line.model)
