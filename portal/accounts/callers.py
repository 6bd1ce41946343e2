"""Rows of accounts → who calls with which token, and the quotas of everybody. SELECTs only, no Django."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, NamedTuple

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import named
from portal.policy.limits import Level, Quota

Standing = Literal["active", "revoked", "disabled"]


@dataclass(frozen=True, slots=True)
class Caller:
    """A token's owner: one user in one project."""

    token_id: int
    user_id: int
    project_id: int
    scopes: frozenset[str]
    expires_at: float  # UNIX seconds
    standing: Standing
    weight: float  # of the project, under contention
    priority: int  # of the user's requests in the project, where they name none


class _TokenRow(NamedTuple):
    """A token with its owner. `active`: user, project and membership are."""

    digest: str
    id: int
    user: int
    project: int
    scopes: str  # JSON
    expires_at: float
    revoked: bool
    active: bool
    weight: float
    priority: int


@dataclass(frozen=True, slots=True)
class Principal:
    """One for whom a request is accepted: a user in a project, with a token or, in a browser, without one."""

    token: int | None
    user: int
    project: int
    weight: float  # of the project, under contention
    priority: int  # of the user's requests in the project, where they name none


def read_principal(cur: Cursor, token: int | None, user: int, project: int) -> Principal:
    """Return the principal with the project's weight and the member's usual priority. Operators may ask for projects
    that they do not belong to."""
    cur.execute(
        """SELECT p.weight, coalesce(m.priority, 0) FROM accounts_project p
             LEFT JOIN accounts_membership m ON m.project_id = p.id AND m.user_id = %s WHERE p.id = %s""",
        (user, project),
    )
    weight, priority = cur.fetchone() or (1.0, 0)  # a project that is being deleted
    return Principal(token, user, project, weight, priority)


def read_callers(cur: Cursor, digests: Iterable[str]) -> dict[str, Caller]:
    """Return who calls with the tokens of these digests, by digest; revoked, expired and disabled ones too."""
    wanted = list(digests)
    if not wanted:
        return {}
    cur.execute(
        """SELECT t.digest, t.id, t.user_id AS user, t.project_id AS project, t.scopes::text,
             extract(epoch FROM t.expires_at)::float8 AS expires_at, t.revoked_at IS NOT NULL AS revoked,
             u.is_active AND p.is_active AND m.id IS NOT NULL AS active, p.weight, coalesce(m.priority, 0) AS priority
           FROM accounts_apitoken t JOIN accounts_user u ON u.id = t.user_id
             JOIN accounts_project p ON p.id = t.project_id
             LEFT JOIN accounts_membership m ON m.user_id = t.user_id AND m.project_id = t.project_id
           WHERE t.digest = ANY(%s)""",
        (wanted,),
    )
    return {row.digest: _caller(row) for row in named(cur, _TokenRow)}


def _caller(row: _TokenRow) -> Caller:
    return Caller(
        token_id=row.id,
        user_id=row.user,
        project_id=row.project,
        scopes=frozenset(map(str, json.loads(row.scopes))),
        expires_at=row.expires_at,
        standing="revoked" if row.revoked else "active" if row.active else "disabled",
        weight=row.weight,
        priority=row.priority,
    )


def read_quotas(cur: Cursor, of: Iterable[tuple[Level, str]] | None = None) -> dict[tuple[Level, str], Quota]:
    """Return the quotas of these subjects by level and name, or of everybody."""
    rows = """SELECT level, coalesce(token_id::text, user_id::text, project_id::text, model), requests_per_min,
             tokens_per_min, concurrent, queued FROM accounts_quota"""
    if of is None:
        cur.execute(rows)
    else:
        by_level: dict[str, list[str]] = {"token": [], "user": [], "project": [], "model": []}
        for level, subject in of:
            by_level[level].append(subject)
        cur.execute(
            f"""{rows} WHERE token_id = ANY(%(token)s::bigint[]) OR user_id = ANY(%(user)s::bigint[])
                 OR project_id = ANY(%(project)s::bigint[]) OR model = ANY(%(model)s::text[])""",
            by_level,
        )
    return {(level, subject): Quota(*limits) for level, subject, *limits in cur.fetchall()}
