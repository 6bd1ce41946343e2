"""An owner's wish that a batch ends → the batch is cancelling, or an error that says why it cannot.

Separate from `passes`, which carries it out: here is the one answer for /v1/batches and the page. No Django.
"""

from __future__ import annotations

from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.batches import queries, transitions
from portal.batches.queries import BatchRow, Owner
from portal.errors import ApiError
from portal.ledger.states import BatchState

_CANCELLED = (BatchState.CANCELLING, BatchState.CANCELLED)


def cancel(cur: Cursor, id_: UUID, owner: Owner, now: datetime) -> tuple[BatchRow, bool]:
    """Return the batch and whether this call is what cancels it: asked twice, it is cancelled once. Raises ApiError where
    the owner has no such batch or it is over. The caller commits, then tells those who look after batches."""
    if queries.batch(cur, id_, owner) is None:
        raise ApiError("batch_not_found")
    moved = transitions.ask_cancel(cur, id_, now)
    row = queries.batch(cur, id_, owner)
    assert row is not None  # batches are not deleted
    if not moved and row.state not in _CANCELLED:
        raise ApiError("conflict", detail=f"The batch is {row.state} and can no longer be cancelled.")
    return row, moved
