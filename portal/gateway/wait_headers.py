"""Where the time before a request's first byte went → headers; for a stream whose headers are out, an event.

Queue, Slurm and load add up to the wait, as they do in its timeline (portal.ledger.timeline). One that ran at once
waited for neither Slurm nor a load: it says its queue alone, and costs nothing more.
"""

from __future__ import annotations

from portal.http.exchange import Headers
from portal.ledger.transitions import Granted

_PREFIX = b"x-berth-"
_QUEUE, _SLURM, _LOAD = _PREFIX + b"queue-ms", _PREFIX + b"slurm-ms", _PREFIX + b"load-ms"
_NAMES = frozenset({_QUEUE, _SLURM, _LOAD})


def at_once(extra: Headers, waited_ms: float) -> Headers:
    """Return the headers, with what is said already; of this, what an earlier try waited is left out."""
    return [*_others(extra), (_QUEUE, b"%d" % waited_ms)]


def in_line(extra: Headers, waited_ms: float, granted: Granted) -> Headers:
    slurm_ms, load_ms = 1000 * granted.slurm_s, 1000 * granted.load_s
    queue_ms = max(0.0, waited_ms - slurm_ms - load_ms)
    split = ((_QUEUE, queue_ms), (_SLURM, slurm_ms), (_LOAD, load_ms))
    return [*_others(extra), *((name, b"%d" % ms) for name, ms in split)]


def event(extra: Headers) -> dict[str, object]:
    """Return the times of a wait in milliseconds by name, for instance `{"queue_ms": 120}`."""
    return {
        name.removeprefix(_PREFIX).decode().replace("-", "_"): int(value)
        for name, value in extra
        if name in _NAMES
    }


def _others(extra: Headers) -> Headers:
    return [header for header in extra if header[0] not in _NAMES]
