"""Everything the policies may know, as one immutable value. Pure; times are UNIX seconds.

Built from rows, the last listing and the pilots' last reports by `scheduler.observe.snapshot`; the simulator builds the
same from nothing. None means unknown, never zero: what was not heard must not look like idleness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Limits:
    pilot_idle_s: float
    launch_backoff_s: float
    latch_after: int
    switch_after_s: float = 30.0  # least idle time before a replica makes room for another pool's work
    room_wait_s: float = 30.0  # how long room that is being cleared is waited for before a new job
    min_residency_s: float = (
        60.0  # a replica stays at least this long after it was hot before work switches it out
    )
    wait_bound_s: float = 600.0  # work that has waited longer outweighs whatever is resident (invariant 8)
    lull_s: float = 120.0  # a replica above need goes after so long without work
    hand_over_margin_s: float = 15.0  # kept in hand when a successor is timed
    max_gpus: int | None = None  # of all live pilots; None: no cap
    project_gpus: Mapping[str, int] = field(default_factory=dict)  # caps of projects that have one


@dataclass(frozen=True, slots=True)
class ProfileView:
    name: str
    enabled: bool
    gpus: int  # of one node
    mem_mb: int
    max_pilots: int
    preemptible: bool = False
    gpu_type: str = ""
    project: str = ""  # whose pilots these are; "" = shared
    cost: float = 1.0  # relative, of one GPU hour
    walltime_s: float = 14_400.0  # asked of Slurm
    least_s: float = 0.0  # the shortest job that is still useful
    free_until: float | None = None  # start of the next reservation over its nodes, when known
    wait_p50_s: float | None = None  # how long Slurm let its jobs wait within a day
    wait_p90_s: float | None = None
    # Slurm's own estimate for a job submitted now, over the most nodes that a pool of it asks for: others start no later.
    starts_in_s: float | None = None
    latched: str = ""  # why nothing may be submitted under it until a person looks, in words
    nodes: int = 1  # the most that one of its jobs may have


@dataclass(frozen=True, slots=True)
class PilotView:
    id: str
    profile: str
    state: str
    gpus: int  # of all its nodes
    mem_mb: int  # of each of them
    alive: bool  # False: silent for alive_s, though it could have been heard
    ends_at: float | None = None  # when Slurm will end the job
    empty_since: float | None = None  # no live replica since then; None while it has one
    hopeless: str = ""  # why its job will never start, in words
    planned_at: float = 0.0
    gpu_type: str = ""
    node: str = ""
    replaces: str = ""  # the pilot that it takes over from
    draining_at: float | None = None
    staged: frozenset[str] = frozenset()  # pools whose weights lie on its scratch
    scratch: bool = False  # it has a node-local disk for weights
    stage_wish: str = ""  # the pool whose weights it was last asked to stage
    leaves: bool = False  # its agent says that it goes, e.g. because Slurm told it to
    nodes: int = 1

    @property
    def serves(self) -> bool:
        """Else nothing that it hosts counts, and it takes no more."""
        return self.alive and not self.leaves


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
    wanted_at: float = 0.0
    hot_at: float | None = None
    sleep_level: int = 0  # while draining: what the drain leads to
    can_sleep: int = 0  # deepest level that its engine was seen to do; 0 none, or not known
    asleep_at: float | None = None
    home_gpus: tuple[int, ...] = ()  # those that its engine was started with: it wakes on no others


@dataclass(frozen=True, slots=True)
class FitView:
    """A pool on one type of GPU, as far as it was measured."""

    fits: bool = True
    load_s: float | None = None
    service_s: float | None = None  # engine time of one request


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
    gpus: int  # of one replica, on all its nodes
    mem_mb: int  # on each of them
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
    cap: int = 32  # requests in flight of one replica
    queued_held: int = 0  # of `queued`: a client waits on a connection
    queued_batch: int = 0  # of `queued`: lines of batches, which fill what is left
    waited_s: float | None = None  # of the request at the head of its line; None: nobody waits
    service_s: float | None = None  # engine time of one request, measured, over all types of GPU
    weight: float = 1.0  # the largest share of the projects whose work waits
    gpu_types: tuple[str, ...] = ()  # on which its environment runs; none: any
    project: str = ""  # the only project that may use it; "" = several
    pinned_until: float | None = None
    sleep_level: int = 0  # how deep it may sleep instead of stopping
    asleep_mem_mb: int = 0  # host memory it holds asleep, measured or estimated
    wake_s: float | None = None  # from asleep to hot, measured
    fits: Mapping[str, FitView] = field(default_factory=dict)  # by GPU type
    nodes: int = 1  # of one replica; over several it has its jobs for itself


@dataclass(frozen=True)
class Snapshot:
    pools: tuple[PoolView, ...]
    pilots: tuple[PilotView, ...]
    replicas: tuple[ReplicaView, ...]  # live ones
    profiles: tuple[ProfileView, ...]
    limits: Limits
    # By profile: why its jobs are neither launched nor let go now, in words. Their way to Slurm does not answer.
    silent: Mapping[str, str] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()  # profiles in whose cluster an operator has paused the fleet

    @cached_property
    def profile_names(self) -> frozenset[str]:
        return frozenset(profile.name for profile in self.profiles)

    @cached_property
    def pilots_by_id(self) -> dict[str, PilotView]:
        return {pilot.id: pilot for pilot in self.pilots}

    @cached_property
    def by_pilot(self) -> dict[str, tuple[ReplicaView, ...]]:
        found: dict[str, list[ReplicaView]] = {pilot.id: [] for pilot in self.pilots}
        for replica in self.replicas:
            found.setdefault(replica.pilot, []).append(replica)
        return {pilot: tuple(replicas) for pilot, replicas in found.items()}

    @cached_property
    def by_pool(self) -> dict[str, tuple[ReplicaView, ...]]:
        found: dict[str, list[ReplicaView]] = {pool.name: [] for pool in self.pools}
        for replica in self.replicas:
            found.setdefault(replica.pool, []).append(replica)
        return {pool: tuple(replicas) for pool, replicas in found.items()}
