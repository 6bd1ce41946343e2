"""A request and a reason → its cancellation: the ledger moves it, and whoever runs it is told."""

from __future__ import annotations

from django.db import connection, transaction
from django.utils import timezone

from portal.admission import reservations
from portal.db.connections import plain
from portal.ledger import transitions
from portal.ledger.models import Request
from portal.ledger.states import Lane
from portal.redis import hints


def cancel(row: Request, reason: str) -> bool:
    """Cancel a request and tell whoever runs it. Return False if it had ended before."""
    with transaction.atomic(), connection.cursor() as cur:
        moved = transitions.cancel(plain(cur), [row.id], timezone.now(), reason)
    for gone in moved:
        # A gateway hears it now; a pilot with its next sync.
        if row.lane == Lane.HELD and gone.holder:
            hints.cancelled(gone.holder, gone.id, gone.attempt)
    with connection.cursor() as cur:
        reservations.give_back(plain(cur), [gone.id for gone in moved])
    return bool(moved)
