"""Start-time fair queueing over projects as a pure function: what a request costs → its place in line.

Each lane of a pool is a line of its own with its own virtual time, in tokens. A request's key is its start tag:
the virtual time, or the finish tag of what its project has reserved before, whichever is later; the project's
finish tag then moves on by cost ÷ weight. The lowest key is served next, and the virtual time follows the keys
of what starts service. So a project that floods a line only moves its own later work back.
(Goyal, Vin, Cheng: Start-time Fair Queueing, SIGCOMM 1996.)

The rule runs in Redis (portal/admission/lua/tag.lua), where reading and reserving are one step. This is its plain
statement, and what is used while Redis is away; a property test holds the two together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

# Those that find their project idle at one virtual time are first come, first served: they start this much apart.
STEP = 1 / 1024
# Work of a higher priority passes its own project's lower ones; what it takes is charged to them.
PRIORITIES = (1, 0, -1)


@dataclass(frozen=True, slots=True)
class Line:
    """One lane of one pool. `newest`: the last start tag given to a project that was idle.

    `finishes`: (project, priority) → finish tag."""

    vtime: float = 0.0
    newest: float = float("-inf")
    finishes: Mapping[tuple[int, int], float] = field(default_factory=dict)


def tag(line: Line, project: int, share: float, priority: int = 0) -> tuple[float, Line]:
    """Return the order key, and the line with the place reserved. `share`: estimated tokens ÷ the project's weight."""
    finish = line.finishes.get((project, priority), float("-inf"))
    newest = line.newest
    if finish > line.vtime:
        key = finish
    else:
        key = newest = max(line.vtime, newest + STEP)
    finishes = dict(line.finishes)
    finishes[project, priority] = key + share
    for lower in (p for p in PRIORITIES if p < priority):
        finishes[project, lower] = max(finishes.get((project, lower), float("-inf")), key) + share
    return key, replace(line, newest=newest, finishes=finishes)


def keys(first: float, shares: Sequence[float]) -> list[float]:
    """Return the places inside one reservation of sum(shares): those of a batch, in its own order."""
    found = []
    for share in shares:
        found.append(first)
        first += share
    return found


def started(line: Line, key: float) -> Line:
    """Return the line once a request with this key has started service."""
    return replace(line, vtime=max(line.vtime, key))


def given_back(line: Line, project: int) -> Line:
    """Return the line without what the project had reserved and not used, once nothing of it waits any more."""
    return replace(line, finishes={of: tag for of, tag in line.finishes.items() if of[0] != project})


def longest_wait(line: Line, key: float, weights: Mapping[int, float], largest: Mapping[int, float]) -> float:
    """Return the most tokens that are served to other projects before a request with this key, from now on
    (theorem 2 of the paper). `weights` and `largest` (tokens of one request) are by project."""
    return sum(weight * max(0.0, key - line.vtime) + largest[of] for of, weight in weights.items())
