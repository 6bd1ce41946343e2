"""Turns deadline, signals, the portal's word and the portal's silence into "drain now, until then, because". Pure.

The agent's own clock against the deadline decides, and late: until the end is as near as requests take here, it
serves. Slurm's warning signal is a hint, for where no deadline is known: it may come a minute early. SIGTERM is
no hint: preemption and cancellation leave about 30 s (Slurm's KillWait).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

# Time kept back before a deadline: results posted, engines stopped, last sync sent.
LAST_WORDS_S = 5.0
# What the last requests took is no promise: the next one may take this many times as long, and a moment more.
HEADROOM = 1.5
HEADROOM_S = 2.0
# Where no request has ended yet.
UNKNOWN_S = 30.0
TERM_DRAIN_S = 20.0

Ending = Literal["drained", "walltime", "preempted", "portal silent", "node lost"]


@dataclass(frozen=True, slots=True)
class Signs:
    """The signs that can end a pilot, as known at one moment."""

    deadline_at: float | None
    portal_drains: bool
    hinted_at: float | None  # SIGUSR2 came
    term_at: float | None  # SIGTERM came
    heard_at: float  # last good answer of the portal
    busy: bool
    drain_limit_s: float  # the longest of the replicas' drain limits
    longest_s: float | None = None  # of the last requests; None: nobody knows
    node_lost: bool = False  # one of the job's other nodes is gone for good


@dataclass(frozen=True, slots=True)
class Drain:
    ending: Ending
    until: float  # what still runs then is given back


def decide(signs: Signs, running: Drain | None, silence_s: float, now: float) -> Drain | None:
    """Return the drain to be in, or None. A drain never ends; a later sign may only shorten it."""
    drain = _wanted(signs, silence_s, now)
    if drain is None or running is None:
        return running or drain
    if drain.until < running.until:
        return drain
    return running


def _wanted(signs: Signs, silence_s: float, now: float) -> Drain | None:
    # 1. Told to go by Slurm.
    if signs.term_at is not None:
        return Drain("preempted", _before(signs.deadline_at, signs.term_at + TERM_DRAIN_S))
    if signs.node_lost:
        return Drain("node lost", now)
    # 2. A request that came now might not end in time by our own clock; without one, by Slurm's warning.
    if signs.deadline_at is not None:
        last = signs.deadline_at - LAST_WORDS_S
        if now >= last - _needed_s(signs):
            return Drain("walltime", last)
    elif signs.hinted_at is not None:
        return Drain("walltime", signs.hinted_at + min(signs.drain_limit_s, TERM_DRAIN_S))
    # 3. Told to go by the portal.
    if signs.portal_drains:
        return Drain("drained", _before(signs.deadline_at, now + signs.drain_limit_s))
    # 4. Nobody has told us anything for long, and nothing runs here.
    if not signs.busy and now - signs.heard_at >= silence_s:
        return Drain("portal silent", now)
    return None


def _needed_s(signs: Signs) -> float:
    """Return how long a drain takes: as long as a request that has just come may, within the drain limit."""
    expected_s = UNKNOWN_S if signs.longest_s is None else HEADROOM * signs.longest_s + HEADROOM_S
    return min(signs.drain_limit_s, expected_s)


def _before(deadline_at: float | None, until: float) -> float:
    return until if deadline_at is None else min(until, deadline_at - LAST_WORDS_S)
