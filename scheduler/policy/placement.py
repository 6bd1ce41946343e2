"""Where a pool's next replica goes: awake again, into a pilot that exists, into room that is being cleared, or
into a new job. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass

from portal.fleet.states import PilotState
from scheduler.policy import profiles
from scheduler.policy.allocation import Allocation
from scheduler.policy.profiles import Claim, NewPilot, Nowhere
from scheduler.policy.views import PilotView, ReplicaView


@dataclass(frozen=True, slots=True)
class Wake:
    """Propose to wake a replica."""

    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class InPilot:
    """Propose a pilot that has room."""

    pilot: PilotView


@dataclass(frozen=True, slots=True)
class RoomSoon:
    """Say that there will be room: cheaper than a new job, and cheaper than sending anybody else away."""


Place = Wake | InPilot | RoomSoon | NewPilot | Nowhere


def place(claim: Claim, allocation: Allocation) -> Place:
    """Return the cheapest place for the claim.

    1. Its own replica that sleeps in a pilot where its GPUs are free and there is the memory to wake it.
    2. A pilot with free GPUs and memory that lives long enough, in the order of `Allocation.rooms`.
    3. Room that a draining replica is about to leave, or that a job launched in this very tick will have: it is
       promised to the pool, and a later tick places it there.
    4. A new job.
    5. Nowhere, and why.

    Switching out an idle resident stands between 3 and 4: `supply` weighs it against the new job.
    """
    if (replica := _asleep(claim, allocation)) is not None:  # 1
        return Wake(replica)
    if (pilot := _roomy(claim, allocation, started=False)) is not None:  # 2
        return InPilot(pilot)
    room_wait_s = allocation.snapshot.limits.room_wait_s
    if clear_soon(claim, allocation, room_wait_s) or _in_draft(claim, allocation):  # 3
        return RoomSoon()
    return profiles.new_pilot(claim, allocation)  # 4, 5


def may_enter(claim: Claim, pilot: PilotView, allocation: Allocation, more_gpus: int) -> bool:
    """Return whether all but room allows it: profile, shape, type of GPU, the time left, and the cap of its project,
    which gets `more_gpus`."""
    pool = claim.pool
    if pilot.profile not in claim.profiles or not pool.suits(pilot.nodes, pilot.gpus):
        return False
    if not pool.fits_on(pilot.gpu_type):
        return False
    if pool.gpus and not allocation.owner_of(pilot) and allocation.project_left(pool.project) < more_gpus:
        return False
    return not allocation.snapshot.is_closing(pool, pilot)


def clear_soon(claim: Claim, allocation: Allocation, within_s: float) -> bool:
    """Promise the pool the room that replicas leave which drain for no longer than `within_s`; return whether any."""
    pool, snapshot = claim.pool, allocation.snapshot
    for pilot_id, draining in allocation.clearing.items():
        pilot = snapshot.pilots_by_id[pilot_id]
        coming: list[ReplicaView] = []
        gpus, coming_mb = len(allocation.free_gpus(pilot_id)), 0
        need_mb = allocation.need_mb(pool, pilot) - allocation.free_mb(pilot_id)
        for replica in draining:
            if gpus >= pool.gpus and coming_mb >= need_mb:
                break
            since = replica.draining_at
            if since is not None and snapshot.now - since < within_s:
                coming.append(replica)
                gpus += len(replica.gpu_indices)
                coming_mb += allocation.frees_mb(replica, replica.sleep_level)
        roomy = pilot.state == PilotState.UP and gpus >= pool.gpus and coming_mb >= need_mb
        if not coming or not roomy:
            continue
        if may_enter(claim, pilot, allocation, pool.gpus - allocation.returned(pool, coming)):
            allocation.promise(pool, pilot, coming, coming_mb)
            return True
    return False


def ready_s(claim: Claim, allocation: Allocation) -> float:
    """Return how long one more replica would take to come, caps aside, in seconds. A look, which takes nothing."""
    pool = claim.pool
    if pool.wake_s is not None and _asleep(claim, allocation) is not None:
        return pool.wake_s
    if (pilot := _roomy(claim, allocation, started=True)) is not None:
        return pool.load_on(pilot.gpu_type)
    usable = (profile for profile in claim.profiles.values() if profile.is_open)
    return min((profiles.ready_s(pool, profile) for profile in usable), default=float("inf"))


def _roomy(claim: Claim, allocation: Allocation, *, started: bool) -> PilotView | None:
    """Return the pilot with room that is preferred. `started`: not one that is on its way."""
    pool = claim.pool
    for pilot in allocation.rooms(pool):
        if started and pilot.state != PilotState.UP:
            continue
        if allocation.free_mb(pilot.id) >= pool.mem_mb and may_enter(claim, pilot, allocation, pool.gpus):
            return pilot
    return None


def _asleep(claim: Claim, allocation: Allocation) -> ReplicaView | None:
    """Return a replica of the pool that sleeps where it can wake."""
    pool, pilots = claim.pool, allocation.snapshot.pilots_by_id
    for replica in allocation.snapshot.asleep[pool.name]:
        if replica.id in allocation.moved or replica.pilot not in pilots:
            continue
        pilot = pilots[replica.pilot]
        roomy = (
            len(replica.home_gpus) == pool.gpus  # as long as its catalog entry stays as it was
            and set(replica.home_gpus) <= set(allocation.free_gpus(pilot.id))
            and allocation.free_mb(pilot.id) + replica.mem_mb >= pool.mem_mb
        )
        takes = pilot.state == PilotState.UP and allocation.is_open(pilot.id)
        if roomy and takes and may_enter(claim, pilot, allocation, pool.gpus):
            return replica
    return None


def _in_draft(claim: Claim, allocation: Allocation) -> bool:
    """Take room in a job that this tick launches; return whether there was any."""
    pool = claim.pool
    for draft in allocation.drafts if pool.nodes == 1 else ():
        roomy = draft.free_gpus >= pool.gpus and draft.free_mb >= pool.mem_mb
        capped = pool.gpus and allocation.project_left(pool.project) < pool.gpus
        if roomy and draft.profile.name in claim.profiles and not capped:
            draft.free_gpus -= pool.gpus
            draft.free_mb -= pool.mem_mb
            return True
    return False
