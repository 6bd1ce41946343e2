"""A moment as people write it → a time: 2026-11-21, 2026-11-21T09:00 (UTC), or a time ago such as 2h.

Shared by everything that is looked through by time, so that the same word means the same everywhere.
"""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta

from django.core.exceptions import ValidationError
from django.utils.dateparse import parse_date, parse_datetime

from portal.fleet.times import seconds_of

FORMS = "2026-11-21, 2026-11-21T09:00 (UTC), or a time ago such as 2h."


def moment(param: str, word: str, now: datetime) -> datetime:
    """Read a moment from a parameter. Raise ValidationError that names the parameter."""
    at = _ago(word, now) or _date(word)
    if at is None:
        raise ValidationError({param: f"Invalid time: write {FORMS}"})
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)


def _ago(word: str, now: datetime) -> datetime | None:
    try:
        return now - timedelta(seconds=seconds_of(word))
    except (ValueError, OverflowError):
        return None


def _date(word: str) -> datetime | None:
    try:
        day = parse_date(word)
        return datetime.combine(day, time()) if day is not None else parse_datetime(word)
    except ValueError:
        return None
