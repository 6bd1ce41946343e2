"""What ended requests used → sums by hour and by day, and from those what people are shown. SQL over a plain cursor.

A trigger writes deltas in the transaction that ends the requests; `fold` moves them into the sums; whoever reads adds
up both, so a number is right at any moment, before a fold, after it, and after one that was killed (decisions/0019).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from psycopg2.extensions import cursor as Cursor

Step = Literal["hour", "day"]

_COLUMNS = "at, user_id, project_id, model, requests, failed, prompt_tokens, completion_tokens, gpu_s"
_SUMS = "sum(requests), sum(failed), sum(prompt_tokens), sum(completion_tokens), sum(gpu_s)"
_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Used:
    """In the hour or day that begins at `at`. `gpu_s`: engine time × GPUs, each request for itself."""

    at: datetime
    project_id: int
    model: str
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    gpu_s: float


def fold(cur: Cursor) -> int:
    """Deltas → sums, in one statement: either a delta is there or it is in its sum. Answers how many were folded, the
    oldest first, `_AT_ONCE` at most. One caller at a time."""
    cur.execute(
        f"""WITH gone AS (
             DELETE FROM ledger_usagedelta WHERE id = ANY(ARRAY(
               SELECT id FROM ledger_usagedelta ORDER BY id LIMIT %s)) RETURNING {_COLUMNS}),
           put AS (
             INSERT INTO ledger_usage (step, {_COLUMNS})
             SELECT step, date_trunc(step, at, 'UTC'), user_id, project_id, model, {_SUMS}
             FROM gone, (VALUES ('hour'), ('day')) steps (step) GROUP BY 1, 2, 3, 4, 5
             ON CONFLICT (user_id, step, at, project_id, model) DO UPDATE SET
               requests = ledger_usage.requests + excluded.requests,
               failed = ledger_usage.failed + excluded.failed,
               prompt_tokens = ledger_usage.prompt_tokens + excluded.prompt_tokens,
               completion_tokens = ledger_usage.completion_tokens + excluded.completion_tokens,
               gpu_s = ledger_usage.gpu_s + excluded.gpu_s)
           SELECT count(*) FROM gone""",
        (_AT_ONCE,),
    )
    (folded,) = cur.fetchone() or (0,)
    return int(folded)


def of_user(cur: Cursor, user: int, since: datetime, step: Step) -> list[Used]:
    """What a person's own requests used, in all their projects; oldest first."""
    return _read(cur, "user_id = %s", user, since, step)


def of_projects(cur: Cursor, projects: Sequence[int], since: datetime, step: Step) -> list[Used]:
    """What everybody's requests in these projects used."""
    return _read(cur, "project_id = ANY(%s)", list(projects), since, step)


def _read(cur: Cursor, whose: str, who: object, since: datetime, step: Step) -> list[Used]:
    cur.execute(
        f"""SELECT date_trunc(%s, at, 'UTC'), project_id, model, {_SUMS} FROM (
             SELECT {_COLUMNS} FROM ledger_usage WHERE {whose} AND step = %s AND at >= %s
             UNION ALL SELECT {_COLUMNS} FROM ledger_usagedelta WHERE {whose} AND at >= %s) spent
           GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
        (step, who, step, since, who, since),
    )
    return [
        Used(at, project, model, int(requests), int(failed), int(prompt), int(completion), float(gpu_s))
        for at, project, model, requests, failed, prompt, completion, gpu_s in cur.fetchall()
    ]
