"""A timeline → the stretches of a bar: queue, Slurm, load, engine, each with its seconds and its place. Pure.

Of a request that still waits or runs, the bar goes to now. Separate from the timeline, which tells what is stored.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from portal.ledger.timeline import Timeline

WIDTH = 1000.0  # of the whole bar, in the picture's own units
_LEAST = 4.0  # what took any time at all is seen


@dataclass(frozen=True, slots=True)
class Stretch:
    name: str  # queue, slurm, load or engine
    text: str
    seconds: float
    x: float
    width: float


_TEXTS = {"queue": "Queue", "slurm": "Slurm", "load": "Loading the model", "engine": "Engine"}


def bar(told: Timeline, now: datetime) -> list[Stretch]:
    """Return the stretches that fill the bar; those that took no time are left out."""
    seconds = _seconds(told, now)
    taken = {name: s for name, s in seconds.items() if s > 0}
    whole = sum(taken.values())
    widths = {name: max(_LEAST, WIDTH * s / whole) for name, s in taken.items()}
    scale = WIDTH / sum(widths.values()) if widths else 1.0
    stretches, x = [], 0.0
    for name, width in widths.items():
        stretches.append(Stretch(name, _TEXTS[name], taken[name], round(x, 1), round(width * scale, 1)))
        x += width * scale
    return stretches


def _seconds(told: Timeline, now: datetime) -> dict[str, float]:
    if told.queue_s is not None:
        granted = told.times["granted"]
        running_s = (now - granted).total_seconds() if granted is not None else 0.0
        engine_s = told.engine_s if told.engine_s is not None else max(0.0, running_s)
        return {
            "queue": told.queue_s,
            "slurm": told.slurm_s or 0.0,
            "load": told.load_s or 0.0,
            "engine": engine_s,
        }
    # It waits, or ended without having run.
    accepted, until = told.times["accepted"], told.times["done"] or now
    assert accepted is not None
    waited = (accepted, until)
    slurm_s = _within(waited, told.times["job_submitted"], told.times["job_running"])
    load_s = _within(waited, told.times["engine_started"], told.times["engine_ready"])
    queue_s = max(0.0, (until - accepted).total_seconds() - slurm_s - load_s)
    return {"queue": queue_s, "slurm": slurm_s, "load": load_s, "engine": 0.0}


def _within(window: tuple[datetime, datetime], start: datetime | None, end: datetime | None) -> float:
    """Return the seconds, within the window, of what began at `start` and, where `end` is None, has not ended."""
    if start is None:
        return 0.0
    return max(0.0, (min(end or window[1], window[1]) - max(start, window[0])).total_seconds())
