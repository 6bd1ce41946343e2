"""Rows that pilots have ended → what they really used, for the limits that had only their estimate.

Separate from `rows`, which moves them: this asks after the commit, and only where some quota counts tokens.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from psycopg2.extensions import cursor as Cursor

from gpuworker.wire import estimate_at
from portal.accounts.callers import read_quotas
from portal.admission.subjects import of_subjects
from portal.db.rows import named
from portal.policy import estimate
from portal.policy.limits import Quota, Want, wants


@dataclass(frozen=True, slots=True)
class Spent:
    """What one request used, for the limits that had only its estimate."""

    request: str
    used: int  # tokens
    wants: tuple[Want, ...]  # what had been reserved, of each limit


class _EndedRow(NamedTuple):
    """A row that has ended. `length` and `body`: of what was asked; the body only where it is short."""

    id: str
    token: int | None
    user: int
    project: int
    model: str
    used: int
    length: int
    body: bytes | None
    api: str


def spent(cur: Cursor, ended: Iterable[str], defaults: Mapping[str, Quota]) -> list[Spent]:
    """Return what these requests used and what of their limits had been reserved; nothing where no limit counts
    tokens."""
    quotas = read_quotas(cur)
    if not any(quota.tokens for quota in (*quotas.values(), *defaults.values())):
        return []
    cur.execute(
        """SELECT r.id::text, r.token_id AS token, r.user_id AS user, r.project_id AS project, r.model,
             r.prompt_tokens + coalesce(r.completion_tokens, 0) AS used,
             coalesce(r.batch_length, octet_length(p.body)) AS length,
             CASE WHEN octet_length(p.body) <= %s THEN p.body END AS body, r.api
           FROM ledger_request r LEFT JOIN ledger_payload p ON p.request = r.id
           WHERE r.id = ANY(%s::uuid[]) AND r.state IN ('done', 'failed') AND r.prompt_tokens IS NOT NULL""",
        (estimate.LONGEST, list(ended)),
    )
    found = []
    for row in named(cur, _EndedRow):
        reserved = estimate.of_row(row.length, row.body, estimate_at(row.api))
        subjects = of_subjects(quotas, defaults, row.token, row.user, row.project, row.model)
        if asked := wants(subjects, ("tokens",), reserved):
            found.append(Spent(row.id, row.used, asked))
    return found
