"""The database's moments ↔ the UNIX seconds that policies and reports count in; None stays None.

Separate because everything that reads rows for a snapshot needs it, and nothing else of those that do.
"""

from __future__ import annotations

from datetime import UTC, datetime


def seconds(moment: datetime | None) -> float | None:
    """Return UNIX seconds of a moment of the database."""
    return moment.timestamp() if moment is not None else None


def moment(seconds: float | None) -> datetime | None:
    """Return the moment, with its time zone, of UNIX seconds."""
    return datetime.fromtimestamp(seconds, UTC) if seconds is not None else None
