"""One look at the batches that are not over: import, write what has ended, cancel, expire, end.

Separate from the control loop, which must not wait for a file of 200,000 lines. One process looks at a time;
what it is told to do stands in the rows, so a look that is lost or killed costs seconds.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from portal.admission import reservations
from portal.batches import queries, transitions
from portal.batches.ingestion import import_batch
from portal.batches.output import write_step
from portal.batches.queries import BatchRow
from portal.config import Config
from portal.db.transaction import BATCH_LOCK, loop_lock, moving
from portal.ledger.states import RequestState

logger = logging.getLogger(__name__)

# Lines that run when a batch is cancelled or its window closes may end within this time.
GRACE_S = 60.0


def look(settings: Config, now: float) -> bool:
    """Move every batch that is not over; return False when somebody else is looking."""
    with loop_lock(BATCH_LOCK) as ours:
        if ours:
            with moving() as cur:
                found = queries.live(cur)
            for batch in found:
                try:
                    advance(batch, settings, now)
                except Exception:
                    # One that cannot go on must not keep the others: it is tried again at the next look.
                    logger.exception("batch %s", batch.id)
        return ours


def advance(batch: BatchRow, settings: Config, now: float) -> None:
    """Move a batch as far as it goes now. Raises what files and the database raise."""
    at = datetime.fromtimestamp(now, UTC)
    if batch.state == "validating" and batch.expires_at > at:
        import_batch(batch.id, settings, now)
    elif batch.state == "cancelling":
        asked_at = batch.cancelling_at or at
        _end_waiting(
            batch, RequestState.CANCELLED, at, running_too=(at - asked_at).total_seconds() >= GRACE_S
        )
    elif batch.state == "in_progress" and batch.expires_at <= at:
        late_s = (at - batch.expires_at).total_seconds()
        _end_waiting(batch, RequestState.EXPIRED, at, running_too=late_s >= GRACE_S)
    while write_step(batch.id, settings, now):
        pass
    with moving() as cur:
        transitions.finalize(cur, batch.id, at)
    with moving() as cur:
        if transitions.end(cur, batch.id, at):
            logger.info("batch %s is over", batch.id)


def _end_waiting(batch: BatchRow, state: transitions.NobodyRan, now: datetime, *, running_too: bool) -> None:
    with moving() as cur:
        ended = transitions.end_waiting(cur, batch.id, state, now, running_too=running_too)
    if ended:
        with moving() as cur:
            reservations.give_back(cur, _one_of_each_pool(batch.id))


def _one_of_each_pool(batch: UUID) -> list[UUID]:
    with moving() as cur:
        cur.execute("SELECT DISTINCT ON (pool) id FROM ledger_request WHERE batch_id = %s", (batch,))
        return [UUID(str(id_)) for (id_,) in cur.fetchall()]
