"""What a chart shows → the round values and moments at which its axes are marked, and how they are written. Pure.

Separate from `charts`, which draws: it knows no pixels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Literal

Of = Literal["numbers", "counts", "seconds"]
Words = Callable[[float], str]

_GRID_LINES = 4
_SIZES = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_TIMES = 6  # so many fit side by side on a phone
_MINUTE, _HOUR, _DAY = 60, 3600, 86_400
# How far apart numbers of seconds may stand at an axis, and times below it, both as clocks have them.
_CLOCK = (1, 2, 5, 10, 15, 30, *(_MINUTE * n for n in (1, 2, 5, 10, 15, 30)), *(_HOUR * n for n in (1, 2, 3, 4, 6, 12)),
          _DAY, 2 * _DAY, 7 * _DAY)  # fmt: skip
_MONDAY = datetime(1970, 1, 5, tzinfo=UTC)  # weeks are counted from one


def compact(value: float) -> str:
    """Return the number with three digits and its size as a letter: 1234 → 1.23k."""
    value = float(f"{value:.3g}")
    size, letter = next(((s, x) for s, x in _SIZES if abs(value) >= s), (1.0, ""))
    return f"{value / size:g}{letter}"


def scale(highest: float, of: Of) -> list[float]:
    """Round numbers from 0 to at least `highest`: whole ones of things that are counted, and of time such as clocks
    have."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / _GRID_LINES * 0.999
    if of == "seconds":
        step = float(next((step for step in _CLOCK if step >= rough), math.ceil(rough / _DAY) * _DAY))
    else:
        rough = max(rough, 1.0) if of == "counts" else rough
        size = 10.0 ** math.floor(math.log10(rough))
        round_ones = (size * n for n in (1, 2, 2.5, 5, 10))
        step = next(n for n in round_ones if n >= rough and (of != "counts" or n.is_integer()))
    return [step * n for n in range(math.ceil(highest / step * 0.999) + 1)]


def in_one_unit(step: float) -> Words:
    """Return how an axis with such steps writes its seconds: all of them in one unit."""
    size, unit = next(
        ((s, u) for s, u in ((_DAY, "d"), (_HOUR, "h"), (_MINUTE, "min")) if step % s == 0), (1, "s")
    )
    return lambda value: f"{value / size:g} {unit}" if value else "0"


def times(moments: Sequence[datetime]) -> list[tuple[int, str]]:
    """Return a few of the moments, those that a clock or a calendar would choose: whole hours, days, Mondays. Each
    comes by its index, with how it is written."""
    apart_s = min((b - a for a, b in pairwise(moments)), default=timedelta(seconds=1)).total_seconds()
    marks: list[tuple[int, str]] = []
    for step in _CLOCK:
        if step < apart_s:
            continue
        clock = "%d %b" if step >= _DAY else "%H:%M"
        marks = [
            (i, at.strftime(clock))
            for i, at in enumerate(moments)
            if (at - _MONDAY).total_seconds() % step == 0
        ]
        if len(marks) <= _TIMES:
            break
    return marks
