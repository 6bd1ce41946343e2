"""What a move leaves beside the request's row: an event, a line of a batch that has ended, no payload any more.

Separate because every kind of move leaves them, in its own transaction.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values


def tell_batches(cur: Cursor, ends: Sequence[tuple[Any, Any, bytes | None]]) -> None:
    """Put ended lines of batches, with their results, where the batch's files are written from. Rows without a
    batch are passed over."""
    lines = [end for end in ends if end[0] is not None]
    if lines:
        execute_values(
            cur,
            "INSERT INTO ledger_batchend (batch_id, request_id, result) VALUES %s",
            lines,
            template="(%s::uuid, %s::uuid, %s::bytea)",
            page_size=len(lines),
        )


def event(cur: Cursor, events: Sequence[tuple[Any, ...]]) -> None:
    """Write (request, at, kind, attempt, detail) of abnormal moves."""
    if events:
        execute_values(
            cur,
            "INSERT INTO ledger_requestevent (request_id, at, kind, attempt, detail) VALUES %s",
            events,
            page_size=len(events),
        )


def erase(cur: Cursor, ids: Sequence[UUID]) -> None:
    """Delete the requests' payloads."""
    if ids:
        cur.execute("DELETE FROM ledger_payload WHERE request = ANY(%s::uuid[])", ([str(i) for i in ids],))


def ids_of(rows: Iterable[tuple[UUID]]) -> list[UUID]:
    """Return the ids of rows that have no other column."""
    return [id_ for (id_,) in rows]
