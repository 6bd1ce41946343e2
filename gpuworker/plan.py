"""Turns (what the portal wants, what is here) into the next actions for each replica. Pure.

    wanted ──start──▶ starting ──(healthy)──▶ hot ──drain──▶ draining ──(idle or limit)──▶ stopped
                          │ ▲                  │                │ └──sleep──▶ asleep ──▶ stopped
                          │ └─────────────wake─┼────────────────┼────────────────┘
                          └──(died, too slow, bad argument)─────┴──▶ failed

For each replica here:
 1. `failed` and `stopped` are ends. It is forgotten once the portal no longer lists it.
 2. `starting` and no longer wanted hot, or the pilot drains: stop at once, nothing is in flight.
 3. `starting` and over its load limit: fail.
 4. `hot` and no longer wanted hot (drain, sleep, stop, or simply not listed), or the pilot drains: drain.
 5. `draining` and idle: sleep, where that is wanted and its engine was seen to; else stop. Over its drain limit: stop.
 6. `asleep` and wanted neither asleep nor hot, or the pilot drains: stop. It holds host memory, and no GPU.
For each replica wanted hot, unless the pilot drains or its GPUs are held by another that is not gone or asleep yet:
 7. asleep here: wake, on the GPUs that its engine was started with; it knows no others.
 8. not here: start.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from gpuworker.wire import DesiredReplica, ObservedState

ENDED = frozenset({"stopped", "failed"})


@dataclass(frozen=True, slots=True)
class Here:
    """One replica of this pilot, as far as the plan needs to know it."""

    id: str
    state: ObservedState
    gpus: frozenset[int]
    in_flight: int
    started_at: float
    drain_at: float | None
    load_limit_s: float
    drain_limit_s: float
    can_sleep: int = 0
    turning: bool = False  # between awake and asleep, which ends of itself


@dataclass(frozen=True, slots=True)
class Action:
    do: Literal["start", "drain", "sleep", "wake", "stop", "fail", "forget"]
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
        if replica.state not in ENDED and replica.state != "asleep":
            taken |= replica.gpus
    for want in wanted.values():
        sleeper = here.get(want.id)
        if want.state != "hot" or (sleeper is not None and sleeper.state != "asleep"):
            continue
        if sleeper is not None and sleeper.gpus != frozenset(want.gpus):
            actions.append(Action("stop", want.id, "wanted on other GPUs than those that its engine knows"))
        elif not taken.intersection(want.gpus):
            actions.append(Action("wake" if sleeper else "start", want.id))
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
    sleeps = want is not None and want.state == "asleep" and not pilot_drains
    if replica.state == "asleep":
        return None if sleeps or keep else Action("stop", replica.id, "no longer wanted asleep")
    if replica.state == "draining":
        if replica.turning and sleeps:
            return None
        if replica.in_flight == 0:
            if want is not None and sleeps and 0 < want.sleep_level <= replica.can_sleep:
                return Action("sleep", replica.id)
            return Action("stop", replica.id, "drained")
        if replica.drain_at is not None and now >= replica.drain_at + replica.drain_limit_s:
            return Action("stop", replica.id, f"drain limit of {replica.drain_limit_s:.0f} s reached")
        return None
    if not keep:
        return Action("drain", replica.id, "the pilot drains" if pilot_drains else "no longer wanted")
    return None
