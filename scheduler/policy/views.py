"""What the policies see of one pool, profile, pilot and replica, as frozen values. Pure; times are UNIX seconds.

Separate from the snapshot, which holds all of them and knows what time it is: what can be said of one of them alone is
said here. None means unknown, never zero: what was not heard must not look like idleness.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from portal.fleet.states import SERVING, PilotState, ReplicaState

# Slurm's wait where no job of the profile was seen to wait and Slurm estimates nothing.
UNKNOWN_WAIT_S = 300.0


@dataclass(frozen=True, slots=True)
class Limits:
    """Hold what the operator allows and how patient the policies are."""

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
    """Describe how jobs are submitted under a profile, and how long Slurm lets them wait."""

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

    @property
    def is_open(self) -> bool:
        """Return whether jobs may be submitted under it, as far as administrators and operators say."""
        return self.enabled and not self.latched

    @property
    def wait_s(self) -> float:
        """Return how long a new job will wait in Slurm: its own estimate, else the median of the day, else a guess."""
        if self.starts_in_s is not None:
            return self.starts_in_s
        return self.wait_p50_s if self.wait_p50_s is not None else UNKNOWN_WAIT_S

    @property
    def cautious_wait_s(self) -> float:
        """Return how long a new job may have to wait: the longer of the day's 90th percentile and Slurm's estimate.

        For successors, where asking too early costs little."""
        known = [wait_s for wait_s in (self.wait_p90_s, self.starts_in_s) if wait_s is not None]
        return max(known, default=UNKNOWN_WAIT_S)


@dataclass(frozen=True, slots=True)
class PilotView:
    """Describe a live Slurm job of ours."""

    id: str
    profile: str
    state: PilotState
    gpus: int  # of all its nodes
    mem_mb: int  # of each of them
    alive: bool  # False: silent for alive_s, though it could have been heard
    ends_at: float | None = None  # when Slurm will end the job
    empty_since: float | None = None  # no live replica since then; None while it has one
    hopeless: str = ""  # why its job will never start, in words
    planned_at: float = 0.0
    gpu_type: str = ""  # "": not known
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
        """Return whether what it hosts counts: its agent reports, and does not say that it goes."""
        return self.alive and not self.leaves

    @property
    def end(self) -> float:
        """Return when Slurm will end the job, infinity while that is not known."""
        return self.ends_at if self.ends_at is not None else float("inf")


@dataclass(frozen=True, slots=True)
class ReplicaView:
    """Describe a live engine in a pilot."""

    id: str
    pool: str
    pilot: str
    state: ReplicaState
    gpu_indices: tuple[int, ...]  # those that it holds; asleep it holds none
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

    @property
    def is_serving(self) -> bool:
        """Return whether it serves or is on the way to it, whatever its agent and its job are about to do."""
        return self.state in SERVING

    @property
    def is_asleep(self) -> bool:
        """Return whether its engine is parked in host memory."""
        return self.state == ReplicaState.ASLEEP

    def has_idled(self, for_s: float, now: float) -> bool:
        """Return whether it is hot and was heard to be idle for `for_s`.

        Busy is never evicted (invariant 7), nor is what was not heard."""
        return (
            self.in_flight == 0
            and self.idle_since is not None
            and now - self.idle_since >= for_s
            and self.state == ReplicaState.HOT
        )


@dataclass(frozen=True, slots=True)
class FitView:
    """Describe a pool on one type of GPU, as far as it was measured."""

    fits: bool = True
    load_s: float | None = None
    service_s: float | None = None  # engine time of one request


@dataclass(frozen=True, slots=True)
class Failure:
    """Record a launch that did not become a working replica."""

    at: float
    reason: str


@dataclass(frozen=True, slots=True)
class HoldView:
    """Say what keeps a pool from being started, as the fleet's tables hold it."""

    failures: int = 0
    retry_at: float | None = None
    latched: bool = False
    reason: str = ""


@dataclass(frozen=True, slots=True)
class PoolView:
    """Describe a pool: what its replicas need, who waits for it, what it was measured to do."""

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

    @property
    def drain_s(self) -> float:
        """Return how long what a replica has just begun may go on, with some room; 0 while that is not known."""
        return 2 * (self.service_s or 0.0)

    def load_on(self, gpu_type: str) -> float:
        """Return the seconds that a load takes on such GPUs: measured there, else over all types."""
        fit = self.fits.get(gpu_type)
        return self.load_s if fit is None or fit.load_s is None else fit.load_s

    def runs_on(self, gpu_type: str) -> bool:
        """Return whether its environment is made for such GPUs, as far as the catalog says."""
        return not self.gpu_types or not gpu_type or gpu_type in self.gpu_types

    def fits_on(self, gpu_type: str) -> bool:
        """Return whether its environment runs on such GPUs and it fits onto them.

        What was not tried on a type of GPU, or on GPUs of which the type is not known, counts as fitting."""
        fit = self.fits.get(gpu_type)
        return (fit is None or fit.fits) and self.runs_on(gpu_type)

    def suits(self, nodes: int, gpus: int) -> bool:
        """Return whether a job of so many nodes, with so many GPUs on all of them, is one for it.

        A replica over several nodes has a job of exactly these for itself: cut off pieces of nodes are of use to nobody
        else."""
        return nodes == self.nodes and (gpus == self.gpus if nodes > 1 else gpus >= self.gpus)
