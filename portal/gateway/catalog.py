"""Rows of accounts, catalog and fleet → the values that the gateway looks things up in. SELECTs only.

Separate from `directory`, which knows when to read and for whom; this knows what the tables look like.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from psycopg2.extensions import cursor as Cursor

from portal.fleet.explain import explain
from portal.fleet.facts import read_facts
from portal.fleet.phase import Phase
from portal.gateway.policy.limits import Level, Quota

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


@dataclass(frozen=True, slots=True)
class ModelEntry:
    name: str
    pool: str
    kind: str
    is_public: bool
    projects: frozenset[int]
    context_tokens: int | None
    created: int

    def open_to(self, project_id: int) -> bool:
        return self.is_public or project_id in self.projects


def read_callers(cur: Cursor, digests: Iterable[str]) -> dict[str, Caller]:
    wanted = list(digests)
    if not wanted:
        return {}
    cur.execute(
        """SELECT t.digest, t.id, t.user_id, t.project_id, t.scopes::text, extract(epoch FROM t.expires_at),
             t.revoked_at IS NOT NULL,
             u.is_active AND p.is_active AND m.id IS NOT NULL, p.weight, coalesce(m.priority, 0)
           FROM accounts_apitoken t JOIN accounts_user u ON u.id = t.user_id
             JOIN accounts_project p ON p.id = t.project_id
             LEFT JOIN accounts_membership m ON m.user_id = t.user_id AND m.project_id = t.project_id
           WHERE t.digest = ANY(%s)""",
        (wanted,),
    )
    callers = {}
    for digest, id_, user, project, scopes, expires_at, revoked, active, weight, priority in cur.fetchall():
        standing: Standing = "revoked" if revoked else "active" if active else "disabled"
        callers[digest] = Caller(
            id_, user, project, _scopes(scopes), float(expires_at), standing, weight, priority
        )
    return callers


def _scopes(text: str) -> frozenset[str]:
    return frozenset(str(scope) for scope in json.loads(text))


def read_ticketed(cur: Cursor) -> frozenset[int]:
    """Tokens with places in line that are kept for clients who were told to come again."""
    cur.execute("SELECT DISTINCT token_id FROM ledger_ticket WHERE claimed_by IS NULL AND expires_at > now()")
    return frozenset(token for (token,) in cur.fetchall())


def read_models(cur: Cursor) -> dict[str, ModelEntry]:
    cur.execute(
        """SELECT m.name, m.pool_id, m.kind, m.is_public, m.context_tokens, extract(epoch FROM m.created_at),
             array(SELECT mp.project_id FROM catalog_model_projects mp WHERE mp.model_id = m.id)
           FROM catalog_model m WHERE m.enabled ORDER BY m.name"""
    )
    return {
        name: ModelEntry(name, pool, kind, public, frozenset(projects), context, int(created))
        for name, pool, kind, public, context, created, projects in cur.fetchall()
    }


def read_quotas(cur: Cursor) -> dict[tuple[Level, str], Quota]:
    cur.execute(
        """SELECT level, coalesce(token_id::text, user_id::text, project_id::text, model), requests_per_min,
             tokens_per_min, concurrent, queued FROM accounts_quota"""
    )
    return {(level, subject): Quota(*limits) for level, subject, *limits in cur.fetchall()}


def read_phases(cur: Cursor, now: float, only: Sequence[str] | None = None) -> dict[str, Phase]:
    """How each pool is doing, in the words people see; of some, or of all."""
    return {pool: explain(facts, now) for pool, facts in read_facts(cur, only).items()}
