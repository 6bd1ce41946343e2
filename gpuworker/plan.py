"""Turns (what the portal wants, what is here) into the next actions for each replica. Pure.

    wanted ──start──▶ starting ──(healthy)──▶ hot ──drain──▶ draining ──(idle or limit)──▶ stopped
                          │                    │                │
                          └──(died, too slow, bad argument)─────┴──▶ failed

For each replica here:
 1. `failed` and `stopped` are ends. It is forgotten once the portal no longer lists it.
 2. `starting` and no longer wanted hot, or the pilot drains: stop at once, nothing is in flight.
 3. `starting` and over its load limit: fail.
 4. `hot` and no longer wanted hot (drain, sleep, stop, or simply not listed), or the pilot drains: drain.
 5. `draining` and idle, or over its drain limit: stop.
For each replica only wanted:
 6. hot, the pilot does not drain, and its GPUs are not held by one that is still leaving: start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gpuworker.wire import DesiredReplica, ObservedState

ENDED = frozenset({"stopped", "failed"})


@dataclass(frozen=True, slots=True)
class Here:
    """What the plan needs to know of one replica in this pilot."""

    id: str
    state: ObservedState
    gpus: frozenset[int]
    in_flight: int
    started_at: float
    drain_at: float | None
    load_limit_s: float
    drain_limit_s: float


@dataclass(frozen=True, slots=True)
class Action:
    do: Literal["start", "drain", "stop", "fail", "forget"]
    replica: str
    why: str = ""


def decide(
    desired: Iterable[DesiredReplica], here: Mapping[str, Here], pilot_drains: bool, now: float
) -> list[Action]:
    wanted = {d.id: d for d in desired}
    actions = [
        action
        for replica in here.values()
        if (action := _for_present(replica, wanted.get(replica.id), pilot_drains, now))
    ]
    if pilot_drains:
        return actions
    taken: set[int] = set()
    for replica in here.values():
        if replica.state not in ENDED:
            taken |= replica.gpus
    for want in wanted.values():
        if want.id not in here and want.state == "hot" and not taken.intersection(want.gpus):
            actions.append(Action("start", want.id))
            taken |= set(want.gpus)
    return actions


def _for_present(replica: Here, want: DesiredReplica | None, pilot_drains: bool, now: float) -> Action | None:
    keep = want is not None and want.state == "hot" and not pilot_drains
    if replica.state in ENDED:
        return Action("forget", replica.id) if want is None else None
    if replica.state == "starting":
        if not keep:
            return Action("stop", replica.id, "no longer wanted while it was starting")
        if now >= replica.started_at + replica.load_limit_s:
            return Action("fail", replica.id, f"not ready within {replica.load_limit_s:.0f} s")
        return None
    if replica.state == "draining":
        if replica.in_flight == 0:
            return Action("stop", replica.id, "drained")
        if replica.drain_at is not None and now >= replica.drain_at + replica.drain_limit_s:
            return Action("stop", replica.id, f"drain limit of {replica.drain_limit_s:.0f} s reached")
        return None
    if not keep:
        return Action("drain", replica.id, "the pilot drains" if pilot_drains else "no longer wanted")
    return None
