"""Turns arrivals and ends of requests at one replica into "admit" or "refuse": the hard cap, as plain arithmetic.

Held work (a client waits on a connection) is pushed by gateways, filler is pulled by the leaser. The filler
fills seats up to `cap`; held work may also take `spare` seats above it, because an engine's priority scheduling
does not preempt when all its seats are taken. A request under which an engine has died before runs alone.
No I/O and no clock: `now` is an argument.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from dataclasses import dataclass, field
from typing import Literal

Refusal = Literal["full", "busy"]
RECENT = 100  # requests by which the next ones are judged


def spare_seats(cap: int) -> int:
    return min(2, cap)


@dataclass(slots=True)
class Seats:
    cap: int
    idle_since: float | None
    held: int = 0
    filler: int = 0
    alone: bool = False  # the one in flight must stay the only one
    claimed: bool = False  # a pulled row that must run alone waits for the last one to leave
    served: int = 0  # requests that have left
    busy_s: float = 0.0  # their times here, summed
    recent_s: deque[float] = field(default_factory=lambda: deque(maxlen=RECENT))  # of the last ones

    @property
    def in_flight(self) -> int:
        return self.held + self.filler

    @property
    def longest_s(self) -> float | None:
        """Return the longest of the last requests in seconds; None before the first has left."""
        return max(self.recent_s, default=None)

    @property
    def filler_room(self) -> int:
        return 0 if self.alone or self.claimed else max(0, self.cap - self.in_flight)

    def take_held(self, alone: bool = False) -> Refusal | None:
        """Take a seat, or return why not."""
        if self.alone or self.claimed or (alone and self.in_flight):
            return "busy"
        if self.in_flight >= self.cap + spare_seats(self.cap):
            return "full"
        self.held += 1
        self._taken(alone)
        return None

    def take_filler(self, alone: bool = False) -> bool:
        free = self.in_flight == 0 if alone else self.filler_room > 0
        if self.alone or not free:
            return False
        self.filler += 1
        self._taken(alone)
        return True

    def leave_held(self, now: float, taken_at: float) -> None:
        self.held -= 1
        self._left(now, taken_at)

    def leave_filler(self, now: float, taken_at: float) -> None:
        self.filler -= 1
        self._left(now, taken_at)

    def _taken(self, alone: bool) -> None:
        self.idle_since = None
        self.alone = alone
        if alone:
            self.claimed = False

    def _left(self, now: float, taken_at: float) -> None:
        assert self.held >= 0 and self.filler >= 0
        self.served += 1
        self.busy_s += max(0.0, now - taken_at)
        self.recent_s.append(max(0.0, now - taken_at))
        if self.in_flight == 0:
            self.idle_since = now
            self.alone = False


class Fence:
    """The highest attempt seen of each request: what is older is stale and must not run again here.

    Bounded: after `most` younger requests an entry is forgotten. Attempts of one request follow each other
    within minutes, and the ledger's own fence drops a late result in any case.
    """

    def __init__(self, most: int = 20_000) -> None:
        self._seen: OrderedDict[str, int] = OrderedDict()
        self._most = most

    def passes(self, request: str, attempt: int) -> bool:
        """Return False when a later attempt of this request has been here."""
        if attempt < self._seen.get(request, attempt):
            return False
        self._seen[request] = attempt
        self._seen.move_to_end(request)
        if len(self._seen) > self._most:
            self._seen.popitem(last=False)
        return True
