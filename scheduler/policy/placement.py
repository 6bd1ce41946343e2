"""Where a pool's next replica goes: awake again, into a pilot that exists, into room that is being cleared, or
into a new job. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from scheduler.policy import deadlines, profiles
from scheduler.policy.books import Books
from scheduler.policy.profiles import NewPilot, Nowhere
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView, ReplicaView


@dataclass(frozen=True, slots=True)
class Wake:
    replica: ReplicaView


@dataclass(frozen=True, slots=True)
class InPilot:
    pilot: PilotView


@dataclass(frozen=True, slots=True)
class RoomSoon:
    """There will be room: cheaper than a new job, and cheaper than sending anybody else away."""


Place = Wake | InPilot | RoomSoon | NewPilot | Nowhere


def place(pool: PoolView, may: dict[str, ProfileView], books: Books) -> Place:
    """The cheapest place. `may`: the profiles that the pool may use now.

    1. Its own replica that sleeps in a pilot where its GPUs are free and there is the memory to wake it.
    2. A pilot with free GPUs and memory that lives long enough, in the order of `Books.rooms`.
    3. Room that a draining replica is about to leave, or that a job launched in this very tick will have: it is
       promised to the pool, and a later tick places it there.
    4. A new job.
    5. Nowhere, and why.

    Switching out an idle resident stands between 3 and 4: `decide` weighs it against the new job.
    """
    if (replica := _asleep(pool, may, books)) is not None:
        return Wake(replica)
    for pilot in books.rooms(pool):
        if books.free_mb(pilot.id) >= pool.mem_mb and may_enter(pool, pilot, may, books, pool.gpus):
            return InPilot(pilot)
    if clear_soon(pool, may, books, books.snapshot.limits.room_wait_s) or _in_draft(pool, may, books):
        return RoomSoon()
    return profiles.new_pilot(pool, may, books)


def may_enter(
    pool: PoolView, pilot: PilotView, may: Mapping[str, ProfileView], books: Books, more_gpus: int
) -> bool:
    """All but room: profile, shape, type of GPU, time left, and the cap of its project, which gets `more_gpus`."""
    if not profiles.suits(pool, pilot.nodes, pilot.gpus):
        return False
    if pilot.profile not in may or not profiles.fits(pool, profiles.gpu_type(pilot, books)):
        return False
    if pool.gpus and not books.owner_of(pilot) and books.project_left(pool.project) < more_gpus:
        return False
    return not deadlines.closing(pool, pilot, books.snapshot, books.now)


def clear_soon(pool: PoolView, may: dict[str, ProfileView], books: Books, within_s: float) -> bool:
    """Promises the pool the room that replicas leave which drain for no longer than `within_s`."""
    for pilot_id, draining in books.clearing.items():
        pilot = books.pilots[pilot_id]
        coming: list[ReplicaView] = []
        gpus, mem_mb = len(books.free_gpus(pilot_id)), books.free_mb(pilot_id)
        need_mb = books.need_mb(pool, pilot)
        for replica in draining:
            if gpus >= pool.gpus and mem_mb >= need_mb:
                break
            since = replica.draining_at
            if since is not None and books.now - since < within_s:
                coming.append(replica)
                gpus += len(replica.gpu_indices)
                mem_mb += books.frees_mb(replica, replica.sleep_level)
        roomy = pilot.state == "up" and gpus >= pool.gpus and mem_mb >= need_mb
        if coming and roomy and may_enter(pool, pilot, may, books, pool.gpus - books.returned(pool, coming)):
            books.promise(pool, pilot, coming)
            return True
    return False


def ready_s(pool: PoolView, may: dict[str, ProfileView], books: Books) -> float:
    """How long one more replica would take to come, caps aside. A look, which takes nothing."""
    if pool.wake_s is not None and _asleep(pool, may, books) is not None:
        return pool.wake_s
    for pilot in books.rooms(pool):
        up = pilot.state == "up"
        if up and books.free_mb(pilot.id) >= pool.mem_mb and may_enter(pool, pilot, may, books, pool.gpus):
            return profiles.load_s(pool, profiles.gpu_type(pilot, books))
    usable = [profile for profile in may.values() if profile.enabled and not profile.latched]
    return min((profiles.ready_s(pool, profile) for profile in usable), default=float("inf"))


def _asleep(pool: PoolView, may: dict[str, ProfileView], books: Books) -> ReplicaView | None:
    for replica in books.snapshot.by_pool[pool.name]:
        if replica.state != "asleep" or replica.id in books.moved or replica.pilot not in books.pilots:
            continue
        pilot = books.pilots[replica.pilot]
        roomy = (
            len(replica.home_gpus) == pool.gpus  # as long as its catalog entry stays as it was
            and set(replica.home_gpus) <= set(books.free_gpus(pilot.id))
            and books.free_mb(pilot.id) + replica.mem_mb >= pool.mem_mb
        )
        if (
            roomy
            and pilot.state == "up"
            and books.is_open(pilot.id)
            and may_enter(pool, pilot, may, books, pool.gpus)
        ):
            return replica
    return None


def _in_draft(pool: PoolView, may: dict[str, ProfileView], books: Books) -> bool:
    for draft in books.drafts if pool.nodes == 1 else ():
        roomy = draft.free_gpus >= pool.gpus and draft.free_mb >= pool.mem_mb
        capped = pool.gpus and books.project_left(pool.project) < pool.gpus
        if roomy and draft.profile.name in may and not capped:
            draft.free_gpus -= pool.gpus
            draft.free_mb -= pool.mem_mb
            return True
    return False
