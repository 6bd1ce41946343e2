"""Pools that have to wait for room → where their weights are copied meanwhile, so that their load is shorter. Pure.

A pilot gets one wish at a time, and a pool one pilot: staging is cheap, and still reads a shared file system and fills
a disk that others use. Only where the profile names a scratch folder.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from portal.fleet.states import PilotState
from scheduler.policy import placement
from scheduler.policy.allocation import Allocation
from scheduler.policy.decisions import StageWeights
from scheduler.policy.profiles import Claim
from scheduler.policy.views import PilotView

MOST = 8  # pools looked at in one tick, those that have waited longest first


def ahead(waiting: Sequence[Claim], allocation: Allocation) -> Iterator[StageWeights]:
    """Yield where weights are copied for the claims that found no room.

    1. Where room is being cleared for it. 2. Else in a pilot that it could enter, if one had room: the one with the
    most room now. Not where its weights lie on one of them already, or are on their way."""
    snapshot = allocation.snapshot
    disks = {
        pilot.id: pilot
        for pilot in snapshot.pilots
        if pilot.scratch
        and pilot.state == PilotState.UP
        and pilot.serves
        and not snapshot.is_silent(pilot.id)
    }
    asked = {claim.pool.name for claim in waiting}
    for claim in waiting[:MOST] if disks else ():
        pool = claim.pool
        promised = allocation.promised.get(pool.name)
        near = [disks[promised]] if promised in disks else []  # 1
        near = near or [pilot for pilot in disks.values() if _could_enter(claim, pilot, allocation)]  # 2
        if any(pool.name in pilot.staged or pilot.stage_wish == pool.name for pilot in near):
            continue
        able = [pilot for pilot in near if _is_free(pilot, asked)]
        if not able:
            continue
        best = min(able, key=lambda pilot: (-len(allocation.free_gpus(pilot.id)), pilot.id))
        del disks[best.id]
        reason = f"{pool.name} waits for room: its weights are copied to the node meanwhile."
        inputs = {"queued": pool.queued, "promised": best.id == promised}
        yield StageWeights(pool=pool.name, pilot=best.id, reason=reason, inputs=dict(inputs))


def _could_enter(claim: Claim, pilot: PilotView, allocation: Allocation) -> bool:
    """Return whether the pilot is one for the claim, once it has room."""
    pool = claim.pool
    large = pilot.gpus >= pool.gpus and pilot.mem_mb >= pool.mem_mb
    return large and placement.may_enter(claim, pilot, allocation, pool.gpus)


def _is_free(pilot: PilotView, asked: set[str]) -> bool:
    """Return whether its last wish has been met, or nobody waits for that any more."""
    return not pilot.stage_wish or pilot.stage_wish in pilot.staged or pilot.stage_wish not in asked
