"""Rows that a pilot has claimed → those rows with the bodies that its engine is sent.

A line of a batch has no body in the ledger: it is read from the file now. Separate from the worker API, which knows the
wire and not where a row came from. No Django.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from psycopg2.extensions import cursor as Cursor

from portal.batches.contents import Contents
from portal.ledger import transitions as ledger
from portal.ledger.states import RequestState
from portal.ledger.transitions import Claimed, Finish

_LOST = "The line cannot be read any more: its input file was deleted or changed."


def with_bodies(
    cur: Cursor, rows: Sequence[Claimed], contents: Contents, pilot: str, now: datetime
) -> list[tuple[Claimed, bytes]]:
    """Return the claimed rows, each with its body. A line that cannot be read any more ends here as failed."""
    lines = contents.bodies(row.span for row in rows if row.span is not None)
    lost = [row for row in rows if row.span is not None and row.span not in lines]
    ledger.finish(cur, [_lost(row, pilot, now) for row in lost])
    return [(row, lines[row.span] if row.span else row.body) for row in rows if row not in lost]


def last_lines(cur: Cursor, ended: Sequence[str]) -> bool:
    """Return whether these rows, ended and committed, are the last of some batch: each of its lines is counted or waits
    to be written. Not in the same transaction: of two pilots that end the last two, the later one must see both."""
    cur.execute(
        """SELECT 1 FROM ledger_batch b
           WHERE b.id IN (SELECT batch_id FROM ledger_request WHERE id = ANY(%s::uuid[]))
             AND b.total = b.completed + b.failed + b.cancelled + b.expired
               + (SELECT count(*) FROM ledger_batchend e WHERE e.batch_id = b.id) LIMIT 1""",
        (list(ended),),
    )
    return cur.fetchone() is not None


def _lost(row: Claimed, pilot: str, now: datetime) -> Finish:
    return Finish(
        row.id, row.attempt, pilot, RequestState.FAILED, now, error_code="input_lost", error_text=_LOST
    )
