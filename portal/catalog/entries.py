"""Rows of the catalog → the models that may be asked for, and by which projects. SELECTs only, no Django."""

from __future__ import annotations

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
        return self.is_public or project_id in self.projects


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
