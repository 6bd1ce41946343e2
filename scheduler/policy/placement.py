"""Where a pool's next replica goes: a pilot that exists, room that is being cleared, or a new job. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from scheduler.policy.snapshot import ON_ITS_WAY, PilotView, PoolView, ProfileView, ReplicaView, Snapshot


@dataclass(frozen=True, slots=True)
class InPilot:
    pilot: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class RoomSoon:
    """There will be room in this pilot ("" = one that is just being launched): cheaper than a new job."""

    pilot: str


@dataclass(frozen=True, slots=True)
class NewPilot:
    profile: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Nowhere:
    """`full`: every allowed profile runs as many jobs as it may, so that switching could help."""

    reason: str
    full: bool


@dataclass(slots=True)
class Draft:
    """A job that this tick launches: what is left in it for the pools that come after."""

    profile: str
    free_gpus: int
    free_mb: int

    def takes(self, pool: PoolView) -> bool:
        fits = self.free_gpus >= pool.gpus and self.free_mb >= pool.mem_mb
        if fits and self.profile in pool.profiles:
            self.free_gpus -= pool.gpus
            self.free_mb -= pool.mem_mb
            return True
        return False


Place = InPilot | RoomSoon | NewPilot | Nowhere


def place(
    pool: PoolView, snapshot: Snapshot, taken: Sequence[ReplicaView], drafts: Sequence[Draft], now: float
) -> Place:
    """`taken` and `drafts` are what this tick has decided already.

    1. A pilot that is up, else one on its way, with free GPUs and memory and enough time left; the fullest
       that fits, so that whole pilots go idle.
    2. Room that a draining replica is about to leave, or that a job launched in this very tick will have: the
       next tick places it there.
    3. A new job on the first allowed profile that fits and has jobs left; preemptible ones last.
    4. Nowhere.
    """
    allowed = [profile for profile in snapshot.profiles if profile.name in pool.profiles]
    soon: RoomSoon | None = None
    fits: list[tuple[bool, int, str, tuple[int, ...]]] = []
    for pilot in snapshot.pilots:
        if not _usable(pilot, pool, now):
            continue
        residents = [*snapshot.by_pilot.get(pilot.id, ()), *(r for r in taken if r.pilot == pilot.id)]
        if any(r.pool == pool.name and r.state != "draining" for r in residents):
            continue
        free = free_gpus(pilot, pool, residents)
        if free is not None:
            fits.append((pilot.state != "up", len(free), pilot.id, free[: pool.gpus]))
            continue
        staying = [r for r in residents if not _leaves_soon(r, snapshot, now)]
        if pilot.state == "up" and free_gpus(pilot, pool, staying) is not None:
            soon = soon or RoomSoon(pilot.id)
    if fits:
        _, _, pilot_id, gpus = min(fits)
        return InPilot(pilot_id, gpus)
    if soon is None and any(draft.takes(pool) for draft in drafts):
        soon = RoomSoon("")
    return soon or _new_pilot(pool, allowed, snapshot, drafts)


def free_gpus(pilot: PilotView, pool: PoolView, residents: Sequence[ReplicaView]) -> tuple[int, ...] | None:
    """The pilot's free GPU indices, or None when they or its memory do not fit one more replica."""
    used = {gpu for replica in residents for gpu in replica.gpu_indices}
    free = tuple(gpu for gpu in range(pilot.gpus) if gpu not in used)
    free_mb = pilot.mem_mb - sum(replica.mem_mb for replica in residents)
    return free if len(free) >= pool.gpus and free_mb >= pool.mem_mb else None


def _usable(pilot: PilotView, pool: PoolView, now: float) -> bool:
    if pilot.profile not in pool.profiles or pilot.hopeless:
        return False
    if pilot.state in ON_ITS_WAY:
        return True
    # Not worth a load if the job ends before the model would have served for as long as it loads.
    enough = pilot.ends_at is None or pilot.ends_at - now > 2 * pool.load_s
    return pilot.state == "up" and pilot.alive and enough


def _leaves_soon(replica: ReplicaView, snapshot: Snapshot, now: float) -> bool:
    since = replica.draining_at
    return replica.state == "draining" and since is not None and now - since < snapshot.limits.room_wait_s


def _new_pilot(
    pool: PoolView, allowed: Sequence[ProfileView], snapshot: Snapshot, drafts: Sequence[Draft]
) -> NewPilot | Nowhere:
    if not allowed:
        return Nowhere("No profile is set for it: an administrator has to choose where it may run.", False)
    fitting = [p for p in allowed if p.enabled and p.gpus >= pool.gpus and p.mem_mb >= pool.mem_mb]
    if not fitting:
        return Nowhere(f"No enabled profile has {pool.gpus} GPUs and {pool.mem_mb} MiB for it.", False)
    for profile in sorted(fitting, key=lambda p: (p.preemptible, p.name)):
        live = sum(pilot.profile == profile.name for pilot in snapshot.pilots)
        if live + sum(draft.profile == profile.name for draft in drafts) < profile.max_pilots:
            return NewPilot(profile.name, tuple(range(pool.gpus)))
    names = ", ".join(sorted(p.name for p in fitting))
    return Nowhere(f"All jobs allowed by {names} are in use; it waits for room.", True)
