"""Turns the ends of pulled rows at one replica into how many more are worth having here before a seat is free.

A seat that stands empty while the portal is asked is lost to the engine. So rows that will have a seat within
`LEAD_S`, as fast as rows end now, are asked for ahead: many where they are short, none where each takes a minute and
another pilot may be free sooner. Separate from `seats`: what waits here holds none, and held work does not see it.
"""

from __future__ import annotations

import asyncio
from collections import deque

# Twice what a poll takes on a busy machine: rows that began together end together, and then a whole engine is
# empty at once. Of short rows a second's worth waits here, of long ones none.
LEAD_S = 1.0
WINDOW_S = 2.0  # over which the pace is taken


class Ahead:
    """One replica's rows that wait ahead of a seat. No I/O and no clock: `now` (monotonic, seconds) is an
    argument."""

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._ends: deque[float] = deque()
        self._line: list[asyncio.Event] = []

    def ended(self, now: float) -> None:
        self._ends.append(now)
        self._forget(now)

    def worth(self, now: float) -> int:
        """Return how many rows without a seat are worth having; never more than there are seats."""
        self._forget(now)
        return min(self._cap, int(len(self._ends) * LEAD_S / WINDOW_S))

    def _forget(self, now: float) -> None:
        while self._ends and self._ends[0] < now - WINDOW_S:
            self._ends.popleft()

    # Who waits for a seat, first come first.

    def enter(self) -> asyncio.Event:
        """Join those that wait, and return the event that is set when it may be one's turn."""
        turn = asyncio.Event()
        self._line.append(turn)
        return turn

    def leave(self, turn: asyncio.Event) -> None:
        self._line.remove(turn)

    def call(self, most: int) -> None:
        for turn in self._line[:most]:
            turn.set()

    def __len__(self) -> int:
        return len(self._line)
