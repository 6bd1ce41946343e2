"""Times and spans as reasons say them. Pure: policies know no calendar."""

from __future__ import annotations


def clock(at: float) -> str:
    """Return the time of day of a UNIX time, e.g. 14:03 UTC."""
    return f"{int(at // 3600) % 24:02d}:{int(at // 60) % 60:02d} UTC"


def span(span_s: float) -> str:
    """Return a span of seconds, below two minutes in seconds, else in minutes."""
    return f"{span_s:.0f} s" if span_s < 120 else f"{span_s / 60:.0f} min"


def sentence(text: str) -> str:
    """Return the text with a capital letter first."""
    return text[:1].upper() + text[1:]
