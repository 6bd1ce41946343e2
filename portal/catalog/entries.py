"""Rows of the catalog → the models that may be asked for, and by which projects. SELECTs only, no Django."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import named


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
        """SELECT m.name, m.pool_id AS pool, m.kind, m.is_public, m.context_tokens,
             extract(epoch FROM m.created_at)::bigint AS created,
             array(SELECT mp.project_id FROM catalog_model_projects mp WHERE mp.model_id = m.id) AS projects
           FROM catalog_model m
           WHERE m.enabled AND (%(names)s::text[] IS NULL OR m.name = ANY(%(names)s::text[])) ORDER BY m.name""",
        {"names": None if names is None else list(names)},
    )
    return {entry.name: entry for entry in named(cur, _entry)}


def _entry(*, projects: Iterable[int], **known: Any) -> ModelEntry:
    return ModelEntry(projects=frozenset(projects), **known)
