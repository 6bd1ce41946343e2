"""Rows of the catalog → the models that may be asked for, and by which projects. SELECTs only, no Django."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from psycopg2.extensions import cursor as Cursor


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
        """Say whether the project may use the model; one that is not enabled has no entry."""
        return self.is_public or project_id in self.projects


def read_models(cur: Cursor, names: Sequence[str] | None = None) -> dict[str, ModelEntry]:
    """Return the enabled models by name: those with one of the names, or all."""
    cur.execute(
        """SELECT m.name, m.pool_id, m.kind, m.is_public, m.context_tokens, extract(epoch FROM m.created_at),
             array(SELECT mp.project_id FROM catalog_model_projects mp WHERE mp.model_id = m.id)
           FROM catalog_model m
           WHERE m.enabled AND (%(names)s::text[] IS NULL OR m.name = ANY(%(names)s::text[])) ORDER BY m.name""",
        {"names": None if names is None else list(names)},
    )
    return {
        name: ModelEntry(name, pool, kind, public, frozenset(projects), context, int(created))
        for name, pool, kind, public, context, created, projects in cur.fetchall()
    }
