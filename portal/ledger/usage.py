"""What ended requests used → sums by hour and by day, and from those what people are shown. SQL over a plain cursor.

A trigger writes deltas in the transaction that ends the requests; `fold` moves them into the sums; whoever reads adds
up both, so a number is right at any moment, before a fold, after it, and after one that was killed (decisions/0019).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import named

Step = Literal["hour", "day"]
Kind = Literal["model", "project", "user"]

_COLUMNS = "at, user_id, project_id, model, requests, failed, prompt_tokens, completion_tokens, gpu_s"
_SUMS = "sum(requests), sum(failed), sum(prompt_tokens), sum(completion_tokens), sum(gpu_s)"
_NAMED_SUMS = """sum(requests) AS requests, sum(failed) AS failed, sum(prompt_tokens) AS prompt_tokens,
  sum(completion_tokens) AS completion_tokens, sum(gpu_s) AS gpu_s"""
_NUMBERS = "requests, failed, prompt_tokens, completion_tokens, gpu_s"
_KINDS = """LATERAL (VALUES ('all', ''), ('model', model), ('project', project_id::text), ('user', user_id::text))
  kinds (kind, name)"""
AT_ONCE = 20_000  # that one fold takes
_COARSER = {"hour": "day", "day": "month"}
_CANDIDATES = 10  # for each place among the first


@dataclass(frozen=True, slots=True)
class Used:
    """The use in the hour or day that begins at `at`. `gpu_s`: engine time × GPUs, each request for itself."""

    at: datetime
    project_id: int
    model: str
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    gpu_s: float


@dataclass(frozen=True, slots=True)
class Total:
    """The use of everybody in the hour or day that begins at `at`. `name`: a model's, or the id of a project or a
    person; None: of all that are not named."""

    at: datetime
    name: str | None
    requests: int
    failed: int
    prompt_tokens: int
    completion_tokens: int
    gpu_s: float


def fold(cur: Cursor, most: int = AT_ONCE) -> int:
    """Fold deltas into sums, in one statement: either a delta is there or it is in its sum. Returns how many were
    folded, the oldest first, `most` at most. One caller at a time."""
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
               gpu_s = ledger_usage.gpu_s + excluded.gpu_s),
           total AS (
             INSERT INTO ledger_usagetotal (step, kind, name, at, {_NUMBERS})
             SELECT step, kind, name, date_trunc(step, at, 'UTC'), {_SUMS}
             FROM gone, (VALUES ('hour'), ('day'), ('month')) steps (step), {_KINDS} GROUP BY 1, 2, 3, 4
             ON CONFLICT (kind, step, name, at) DO UPDATE SET
               requests = ledger_usagetotal.requests + excluded.requests,
               failed = ledger_usagetotal.failed + excluded.failed,
               prompt_tokens = ledger_usagetotal.prompt_tokens + excluded.prompt_tokens,
               completion_tokens = ledger_usagetotal.completion_tokens + excluded.completion_tokens,
               gpu_s = ledger_usagetotal.gpu_s + excluded.gpu_s)
           SELECT count(*) FROM gone""",
        (most,),
    )
    (folded,) = cur.fetchone() or (0,)
    return int(folded)


def of_user(cur: Cursor, user: int, since: datetime, step: Step) -> list[Used]:
    """Return what a person's own requests used, in all their projects; oldest first."""
    return _read(cur, "user_id = %s", user, since, step)


def of_projects(cur: Cursor, projects: Sequence[int], since: datetime, step: Step) -> list[Used]:
    """Return what everybody's requests in these projects used."""
    return _read(cur, "project_id = ANY(%s)", list(projects), since, step)


def of_everybody(cur: Cursor, kind: Kind, most: int, since: datetime, step: Step) -> list[Total]:
    """Return what all requests used, of the `most` models, projects or people with the most of them, and of the
    others in one.

    Three queries, and few rows however many people there are: whole days or months say who may be among the first, and
    only of those the hours or days are read. Who was among the first in the time asked for and far behind in the whole
    days or months around it is taken for one of the others."""
    cur.execute(
        f"""SELECT name FROM ({_totals(kind)}) spent GROUP BY 1 ORDER BY sum(requests) DESC, 1 LIMIT %(most)s""",
        {"step": _COARSER[step], "since": _begin(since, step), "most": most * _CANDIDATES},
    )
    within = {"step": step, "since": since, "names": [name for (name,) in cur.fetchall()]}
    cur.execute(
        f"SELECT at, name, {_NAMED_SUMS} FROM ({_totals(kind, only=True)}) spent GROUP BY 1, 2", within
    )
    found = named(cur, _total)
    requests: Counter[str | None] = Counter()
    for one in found:
        requests[one.name] += one.requests
    first = {name for name, _ in sorted(requests.items(), key=lambda item: (-item[1], item[0] or ""))[:most]}
    shown = [one for one in found if one.name in first]
    cur.execute(f"SELECT at, NULL AS name, {_NAMED_SUMS} FROM ({_totals('all')}) spent GROUP BY 1", within)
    rests = (_less(whole, [one for one in shown if one.at == whole.at]) for whole in named(cur, _total))
    return sorted(
        [*shown, *(rest for rest in rests if rest.requests)], key=lambda one: (one.at, one.name or "")
    )


def _begin(since: datetime, step: Step) -> datetime:
    """Return the beginning of the day or month that holds the moment."""
    day = since.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    return day if step == "hour" else day.replace(day=1)


def every_name(cur: Cursor, kind: Kind, since: datetime, step: Step) -> list[Total]:
    """Return the same of all of them, for a file."""
    cur.execute(
        f"SELECT at, name, {_NAMED_SUMS} FROM ({_totals(kind)}) spent GROUP BY 1, 2 ORDER BY 1, 2",
        {"step": step, "since": since},
    )
    return named(cur, _total)


def _totals(kind: str, *, only: bool = False) -> str:
    """Return the SQL of the sums, and of the deltas that are not in them yet; `only`: those of the parameter `names`.
    `kind` is a word of ours."""
    these = "AND name = ANY(%(names)s)" if only else ""
    return f"""SELECT at, name, {_NUMBERS} FROM ledger_usagetotal
        WHERE kind = '{kind}' AND step = %(step)s AND at >= %(since)s {these}
      UNION ALL SELECT date_trunc(%(step)s, at, 'UTC'), name, {_NUMBERS} FROM ledger_usagedelta, {_KINDS}
        WHERE kind = '{kind}' AND at >= %(since)s {these}"""


def _total(*, at: datetime, name: str | None, gpu_s: float, **numbers: int) -> Total:
    return Total(at, name, **_whole(numbers), gpu_s=float(gpu_s))


def _used(*, at: datetime, project_id: int, model: str, gpu_s: float, **numbers: int) -> Used:
    return Used(at, project_id, model, **_whole(numbers), gpu_s=float(gpu_s))


def _whole(numbers: Mapping[str, int]) -> dict[str, int]:
    """Return sums as whole numbers: PostgreSQL's are decimals."""
    return {name: int(number) for name, number in numbers.items()}


def _less(whole: Total, parts: Sequence[Total]) -> Total:
    return Total(
        whole.at,
        None,
        whole.requests - sum(part.requests for part in parts),
        whole.failed - sum(part.failed for part in parts),
        whole.prompt_tokens - sum(part.prompt_tokens for part in parts),
        whole.completion_tokens - sum(part.completion_tokens for part in parts),
        max(0.0, whole.gpu_s - sum(part.gpu_s for part in parts)),
    )


def _read(cur: Cursor, whose: str, who: object, since: datetime, step: Step) -> list[Used]:
    cur.execute(
        f"""SELECT date_trunc(%s, at, 'UTC') AS at, project_id, model, {_NAMED_SUMS} FROM (
             SELECT {_COLUMNS} FROM ledger_usage WHERE {whose} AND step = %s AND at >= %s
             UNION ALL SELECT {_COLUMNS} FROM ledger_usagedelta WHERE {whose} AND at >= %s) spent
           GROUP BY 1, 2, 3 ORDER BY 1, 2, 3""",
        (step, who, step, since, who, since),
    )
    return named(cur, _used)
