"""Rows of files and batches → values, for their owner or for whoever works on them. SELECTs only.

An owner is a user in a project, as a token names them: to everybody else, team-mates too, a file does not exist.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.batches.transitions import LIVE
from portal.db.rows import first, named


@dataclass(frozen=True, slots=True)
class Owner:
    project_id: int
    user_id: int


@dataclass(frozen=True, slots=True)
class FileRow:
    id: UUID
    purpose: str
    name: str
    bytes: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class BatchRow:
    id: UUID
    project_id: int
    user_id: int
    state: str
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    input_file: UUID
    output_file: UUID | None
    error_file: UUID | None
    created_at: datetime
    expires_at: datetime
    in_progress_at: datetime | None
    cancelling_at: datetime | None
    finalizing_at: datetime | None
    ended_at: datetime | None
    errors: list[dict[str, Any]]
    total: int
    completed: int
    failed: int
    cancelled: int
    expired: int


_FILE = "id, purpose, name, bytes, created_at, expires_at"
_BATCH = """id, project_id, user_id, state, endpoint, completion_window, metadata, input_file_id AS input_file,
  output_file_id AS output_file, error_file_id AS error_file, created_at, expires_at, in_progress_at, cancelling_at,
  finalizing_at, ended_at, errors, total, completed, failed, cancelled, expired"""
_OWNED = "user_id = %s AND project_id = %s"


def file(cur: Cursor, id_: UUID, owner: Owner) -> FileRow | None:
    """Return the owner's file, if there is one of this id whose content is not erased."""
    cur.execute(
        f"SELECT {_FILE} FROM ledger_file WHERE id = %s AND {_OWNED} AND erased_at IS NULL",
        (id_, owner.user_id, owner.project_id),
    )
    return first(cur, FileRow)


def files(
    cur: Cursor, owner: Owner, *, purpose: str | None, after: UUID | None, most: int, newest_first: bool
) -> list[FileRow]:
    order, before = ("DESC", "<") if newest_first else ("ASC", ">")
    cur.execute(
        f"""SELECT {_FILE} FROM ledger_file
            WHERE {_OWNED} AND erased_at IS NULL AND (%s::text IS NULL OR purpose = %s)
              AND (%s::uuid IS NULL OR (created_at, id) {before} (SELECT created_at, id FROM ledger_file WHERE id = %s))
            ORDER BY created_at {order}, id {order} LIMIT %s""",
        (owner.user_id, owner.project_id, purpose, purpose, after, after, most),
    )
    return named(cur, FileRow)


def batch(cur: Cursor, id_: UUID, owner: Owner) -> BatchRow | None:
    cur.execute(
        f"SELECT {_BATCH} FROM ledger_batch WHERE id = %s AND {_OWNED}",
        (id_, owner.user_id, owner.project_id),
    )
    return first(cur, _batch)


def batches(cur: Cursor, owner: Owner, *, after: UUID | None, most: int) -> list[BatchRow]:
    """Return the owner's batches, newest first."""
    cur.execute(
        f"""SELECT {_BATCH} FROM ledger_batch
            WHERE {_OWNED}
              AND (%s::uuid IS NULL OR (created_at, id) < (SELECT created_at, id FROM ledger_batch WHERE id = %s))
            ORDER BY created_at DESC, id DESC LIMIT %s""",
        (owner.user_id, owner.project_id, after, after, most),
    )
    return named(cur, _batch)


def live(cur: Cursor) -> list[BatchRow]:
    """Return the batches that are not over, oldest first."""
    cur.execute(f"SELECT {_BATCH} FROM ledger_batch WHERE state = ANY(%s) ORDER BY created_at", (list(LIVE),))
    return named(cur, _batch)


def locked(cur: Cursor, id_: UUID) -> BatchRow | None:
    """Return one batch, whose files nobody else writes until the caller commits."""
    cur.execute(f"SELECT {_BATCH} FROM ledger_batch WHERE id = %s FOR NO KEY UPDATE", (id_,))
    return first(cur, _batch)


def lengths(cur: Cursor, files: Sequence[UUID]) -> dict[UUID, int]:
    """Return the committed lengths of files in bytes."""
    cur.execute("SELECT id, bytes FROM ledger_file WHERE id = ANY(%s::uuid[])", ([str(f) for f in files],))
    return {UUID(str(id_)): length for id_, length in cur.fetchall()}


def _batch(*, metadata: Any, errors: Any, **known: Any) -> BatchRow:
    return BatchRow(metadata=_json(metadata), errors=_json(errors), **known)


def _json(value: Any) -> Any:
    """Return the value of a jsonb column: psycopg2 decodes it by itself, but Django's connections are told not to."""
    return json.loads(value) if isinstance(value, str) else value
