"""The routing rule as a pure function: which replica a request goes to.

The rule runs in Redis (portal/admission/lua/common.lua), where counting and taking a slot are one step. This is
its plain statement; a property test holds the two together on random states.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Candidate:
    """A routable replica. `shut`: it holds a request that must run alone, or is kept free for one."""

    id: str
    in_flight: int
    cap: int
    shut: bool = False


def choose(candidates: Sequence[Candidate]) -> str | None:
    """Return the replica with the largest working set that still has room, so that light ones drain and can be
    released; of equal ones the one with the lowest id. None: wait."""
    open_ = [c for c in candidates if not c.shut and c.in_flight < c.cap]
    return min(open_, key=lambda c: (-c.in_flight, c.id)).id if open_ else None


def choose_alone(candidates: Sequence[Candidate]) -> tuple[str | None, str | None]:
    """Return, for a suspect, the replica to run on now and the replica to keep free for it.

    It runs only where nothing else does; until then the emptiest replica takes nothing new, so that its turn comes."""
    open_ = [c for c in candidates if not c.shut]
    if not open_:
        return None, None
    best = min(open_, key=lambda c: (c.in_flight, c.id))
    return (best.id, None) if best.in_flight == 0 else (None, best.id)
