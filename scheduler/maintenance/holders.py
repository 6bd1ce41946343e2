"""Requests in the hands of gateways and pilots that are gone → back where others find them.

Separate from the ends themselves, because rows that somebody holds locked are skipped, and found by a later tick.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from portal.config import Config
from portal.db.transaction import moving
from portal.ledger import transitions as ledger

logger = logging.getLogger(__name__)


def give_back(config: Config, now: float) -> None:
    """Move what a stale gateway had queued to the lane async, and what an ended pilot was running back to the queue."""
    at = datetime.fromtimestamp(now, UTC)
    with moving() as cur:
        moved = ledger.detach(cur, datetime.fromtimestamp(now - config.holder_stale_s, UTC), at)
    if moved:
        logger.warning("%d requests of gateways that went away are async now", len(moved))
    _release(at)


def _release(at: datetime) -> None:
    with moving() as cur:
        cur.execute(
            """SELECT p.id, p.end_reason FROM fleet_pilot p
               WHERE p.state = 'ended' AND p.ended_at > %s - interval '1 day' AND EXISTS (
                 SELECT 1 FROM ledger_request r
                 WHERE r.holder = p.id::text AND r.state = 'running' AND r.lane <> 'held')""",
            (at,),
        )
        for pilot, reason in cur.fetchall():
            ledger.release(cur, UUID(str(pilot)), at, reason)
