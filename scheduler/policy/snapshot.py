"""Everything the policies may know, as one immutable value. Pure; times are UNIX seconds.

Built from rows, the last listing and the pilots' last reports by `scheduler.view`; the simulator builds the
same from nothing. None means unknown, never zero: what was not heard must not look like idleness.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

COMING = frozenset({"wanted", "starting"})
SERVING = frozenset({"wanted", "starting", "hot"})
# A pilot that Slurm has not started yet, as far as we know.
ON_ITS_WAY = frozenset({"planned", "submitted", "pending"})


@dataclass(frozen=True, slots=True)
class Limits:
    pilot_idle_s: float
    launch_backoff_s: float
    latch_after: int
    switch_after_s: float = 30.0  # least idle time before a replica makes room for another pool's work
    room_wait_s: float = 30.0  # how long room that is being cleared is waited for before a new job


@dataclass(frozen=True, slots=True)
class ProfileView:
    name: str
    enabled: bool
    gpus: int
    mem_mb: int
    max_pilots: int
    preemptible: bool = False


@dataclass(frozen=True, slots=True)
class PilotView:
    id: str
    profile: str
    state: str
    gpus: int
    mem_mb: int
    alive: bool  # reported within alive_s
    ends_at: float | None = None  # when Slurm will end the job
    empty_since: float | None = None  # no live replica since then; None while it has one
    hopeless: str = ""  # why its job will never start, in words


@dataclass(frozen=True, slots=True)
class ReplicaView:
    id: str
    pool: str
    pilot: str
    state: str
    gpu_indices: tuple[int, ...]
    mem_mb: int
    in_flight: int | None = None  # None: its agent was not heard
    idle_since: float | None = None  # None: busy or not heard
    draining_at: float | None = None


@dataclass(frozen=True, slots=True)
class Failure:
    """A launch that did not become a working replica."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class HoldView:
    """What the fleet's tables say of a pool's failures now."""

    failures: int = 0
    retry_at: float | None = None
    latched: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PoolView:
    name: str
    profiles: tuple[str, ...]
    gpus: int
    mem_mb: int
    keep_alive_s: float
    load_s: float  # measured or estimated
    min_replicas: int = 0
    max_replicas: int = 1
    queued: int = 0  # held, async and batch; parked requests are not in it (invariant 11)
    running: int = 0
    interest_until: float | None = None  # someone asked to have it ready
    paused: bool = False
    failures: tuple[Failure, ...] = ()  # in a row, oldest first, since the last good launch or relaunch
    hold: HoldView = field(default_factory=HoldView)


@dataclass(frozen=True)
class Snapshot:
    pools: tuple[PoolView, ...]
    pilots: tuple[PilotView, ...]
    replicas: tuple[ReplicaView, ...]  # live ones
    profiles: tuple[ProfileView, ...]
    limits: Limits
    slurm_fresh: bool  # the last question to Slurm was answered
    slurm_error: str = ""
    paused: bool = False

    @cached_property
    def by_pilot(self) -> dict[str, tuple[ReplicaView, ...]]:
        found: dict[str, tuple[ReplicaView, ...]] = {pilot.id: () for pilot in self.pilots}
        for replica in self.replicas:
            found[replica.pilot] = (*found.get(replica.pilot, ()), replica)
        return found

    @cached_property
    def by_pool(self) -> dict[str, tuple[ReplicaView, ...]]:
        found: dict[str, tuple[ReplicaView, ...]] = {pool.name: () for pool in self.pools}
        for replica in self.replicas:
            found[replica.pool] = (*found.get(replica.pool, ()), replica)
        return found
