"""What requests used → the sums by hour. Every few seconds; one that is late or killed changes no number shown."""

from __future__ import annotations

from portal.db.transaction import USAGE_LOCK, loop_lock, moving
from portal.ledger import usage


def fold() -> int:
    """Fold deltas into the sums, and return how many; 0 when somebody else is at it."""
    folded = 0
    with loop_lock(USAGE_LOCK) as ours:
        while ours:
            with moving() as cur:
                some = usage.fold(cur)
            folded += some
            ours = some > 0
    return folded
