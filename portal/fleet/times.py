"""Seconds and moments → the words of a person. Pure, and without Django: gateways say them too."""

from __future__ import annotations

import re
from datetime import UTC, datetime

_UNIT_S = {"s": 1, "min": 60, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}

# A pin without an end. A date that PostgreSQL and every clock can hold.
FOR_EVER = datetime(9999, 1, 1, tzinfo=UTC)


def span(seconds: float) -> str:
    """Say seconds in the words of a person: 40 s, 12 min, 3 h 5 min, 2 d 4 h."""
    s = max(0, int(seconds))
    if s < 120:
        return f"{s} s"
    if s < 7200:
        return f"{s // 60} min"
    if s < 172_800:
        return f"{s // 3600} h {s % 3600 // 60} min"
    return f"{s // 86_400} d {s % 86_400 // 3600} h"


def between(least_s: float, most_s: float) -> str:
    """Say a range: 6–25 min, 40 s – 12 min; one number where both read the same."""
    low, high = span(least_s), span(max(least_s, most_s))
    if low == high:
        return f"about {low}"
    number, _, unit = low.partition(" ")
    if " " not in unit and high.endswith(f" {unit}") and high.count(" ") == 1:
        return f"{number}–{high}"
    return f"{low} – {high}"


def clock(at: float, now: float) -> str:
    """Say a moment in UTC: 09:12 UTC on the same day, else 20 Nov 09:12 UTC."""
    moment, today = datetime.fromtimestamp(at, UTC), datetime.fromtimestamp(now, UTC)
    day = "" if moment.date() == today.date() else f"{moment.day} {moment:%b} "
    if day and abs(at - now) > 300 * 86_400:
        day = f"{moment.day} {moment:%b %Y} "
    return f"{day}{moment:%H:%M} UTC"


def until(at: datetime) -> str:
    """Say the end of a pin or a wish, in full."""
    return "for ever" if at >= FOR_EVER else f"until {at.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def ago(then: datetime, now: datetime) -> str:
    return f"{span((now - then).total_seconds())} ago"


def seconds_of(text: str) -> float:
    """Read a length of time as people write it: 90s, 30min, 2h, 1d, 1h30m; a bare number is seconds.

    Raise ValueError.
    """
    words = re.findall(r"(\d+(?:\.\d+)?)\s*(min|[smhdw])", text.strip().lower())
    if words and "".join(number + unit for number, unit in words) == re.sub(r"\s", "", text.lower()):
        return sum(float(number) * _UNIT_S[unit] for number, unit in words)
    return float(text)
