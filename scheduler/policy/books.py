"""What exists, plus what this tick has decided, as books that are kept while deciding. Pure.

Mutable on purpose, and the only such thing here: two pools of one tick must never take the same GPU, the same
memory or the last place under a cap. Indexed, so that a pool asks for room without walking the whole fleet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from portal.fleet.states import ON_ITS_WAY, SERVING
from scheduler.policy.deadlines import leaving
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView, ReplicaView, Snapshot


@dataclass(slots=True)
class Draft:
    """A job that this tick launches: what is left in it for the pools that come after."""

    profile: ProfileView
    free_gpus: int
    free_mb: int


class Books:
    def __init__(self, snapshot: Snapshot, now: float) -> None:
        self.snapshot = snapshot
        self.now = now
        self.pools = {pool.name: pool for pool in snapshot.pools}
        self.pilots = snapshot.pilots_by_id
        self.profiles = {profile.name: profile for profile in snapshot.profiles}
        self.leaving = leaving(snapshot, now)
        # Those whose agent is silent or goes serve nobody as far as is known; they are left alone, and not counted.
        mute = {pilot.id for pilot in snapshot.pilots if pilot.state == "up" and not pilot.serves}
        self.gone = self.leaving | {r.id for r in snapshot.replicas if r.pilot in mute}
        self.filled: set[str] = set()  # pilots that get a replica, or whose room is promised
        self.moved: set[str] = set()  # replicas that this tick has dealt with
        self.promised: dict[str, str] = {}  # pool → the pilot in which room is being cleared for it
        self.drafts: list[Draft] = []
        self.clearing: dict[str, list[ReplicaView]] = {}  # by pilot: draining, and not promised to anybody
        self._jobs: Counter[str] = Counter(pilot.profile for pilot in snapshot.pilots)
        self._gpus = sum(pilot.gpus for pilot in snapshot.pilots)
        self._of_project: Counter[str] = Counter()
        self._open: set[str] = set()
        self._free: dict[str, list[int]] = {}
        self._free_mb: dict[str, int] = {}
        self._rooms: dict[tuple[bool, int], list[str]] = defaultdict(list)
        self._staged: dict[str, list[str]] = defaultdict(list)
        for pilot in snapshot.pilots:
            self._enter(pilot)

    def _enter(self, pilot: PilotView) -> None:
        here = self.snapshot.by_pilot[pilot.id]
        used = {gpu for replica in here if replica.state != "asleep" for gpu in replica.gpu_indices}
        self._free[pilot.id] = [gpu for gpu in range(pilot.gpus) if gpu not in used]
        self._free_mb[pilot.id] = pilot.mem_mb - sum(self._holds_mb(replica) for replica in here)
        if owner := self.owner_of(pilot):
            self._of_project[owner] += pilot.gpus
        else:
            for replica in here:
                self._charge(replica)
        if not self._takes_replicas(pilot, here):
            return
        self._open.add(pilot.id)
        if leaving := [replica for replica in here if replica.state == "draining"]:
            self.clearing[pilot.id] = leaving
        for pool in pilot.staged:
            self._staged[pool].append(pilot.id)
        self._shelve(pilot)

    def _takes_replicas(self, pilot: PilotView, here: tuple[ReplicaView, ...]) -> bool:
        """It reports or is on its way, and nothing that it hosts is leaving."""
        if pilot.hopeless or any(r.id in self.leaving and r.state in SERVING for r in here):
            return False
        return pilot.state in ON_ITS_WAY or (pilot.state == "up" and pilot.serves)

    # What is there.

    def is_silent(self, pilot: str) -> bool:
        """Slurm is not heard by the way to its job: it is neither drained nor cancelled (invariant 1)."""
        there = self.pilots.get(pilot)
        return there is not None and there.profile in self.snapshot.silent

    def owner_of(self, pilot: PilotView) -> str:
        """The project whose pilot it is; "" = shared."""
        profile = self.profiles.get(pilot.profile)
        return profile.project if profile is not None else ""

    def is_steady(self, replica: ReplicaView) -> bool:
        """Whether its job is one that Slurm does not preempt."""
        pilot = self.pilots.get(replica.pilot)
        profile = self.profiles.get(pilot.profile) if pilot is not None else None
        return profile is not None and not profile.preemptible

    def free_gpus(self, pilot: str) -> list[int]:
        return self._free[pilot]

    def free_mb(self, pilot: str) -> int:
        return self._free_mb[pilot]

    def need_mb(self, pool: PoolView, pilot: PilotView) -> int:
        """More host memory than now, for a replica of the pool: less where one sleeps that would be woken."""
        here = self.snapshot.by_pilot[pilot.id]
        asleep = (r.mem_mb for r in here if r.pool == pool.name and r.state == "asleep")
        return pool.mem_mb - max(asleep, default=0)

    def is_open(self, pilot: str) -> bool:
        return pilot in self._open

    def rooms(self, pool: PoolView) -> Iterator[PilotView]:
        """Pilots with enough free GPUs, in the order in which they are preferred: up before on their way, then
        with the pool's weights staged, then the fullest, so that whole pilots go idle."""
        need = pool.gpus
        staged = [pilot for pilot in self._staged.get(pool.name, ()) if len(self._free[pilot]) >= need]
        for pilot in sorted(staged, key=lambda pilot: (len(self._free[pilot]), pilot)):
            if self.pilots[pilot].state == "up":
                yield self.pilots[pilot]
        for up in (True, False):
            for free in sorted(n for was_up, n in self._rooms if was_up == up and n >= need):
                for pilot in tuple(self._rooms[up, free]):
                    yield self.pilots[pilot]

    def jobs_left(self, profile: ProfileView) -> int:
        return profile.max_pilots - self._jobs[profile.name]

    def gpus_left(self) -> float:
        most = self.snapshot.limits.max_gpus
        return float("inf") if most is None else most - self._gpus

    def project_left(self, project: str) -> float:
        """GPUs that the project may take yet. Its own are those of its pilots, and those that models which only
        it may use hold in shared ones."""
        most = self.snapshot.limits.project_gpus.get(project) if project else None
        return float("inf") if most is None else most - self._of_project[project]

    def returned(self, pool: PoolView, coming: Collection[ReplicaView]) -> int:
        """GPUs that the pool's own project gets back when these have left."""
        same = (r for r in coming if pool.project and self.pools.get(r.pool, pool).project == pool.project)
        return sum(len(replica.gpu_indices) for replica in same)

    # What is decided.

    def place(self, pool: PoolView, pilot: PilotView) -> tuple[int, ...]:
        """Takes GPUs and memory for a new replica."""
        gpus = self._take(pilot, pool.gpus, pool.mem_mb)
        if not self.owner_of(pilot):
            self._of_project[pool.project] += pool.gpus
        return gpus

    def wake(self, pool: PoolView, replica: ReplicaView) -> tuple[int, ...]:
        """Takes the GPUs that its engine knows, and the memory that it holds awake and not asleep."""
        self.moved.add(replica.id)
        pilot = self.pilots[replica.pilot]
        gpus = self._take(pilot, pool.gpus, pool.mem_mb - replica.mem_mb, replica.home_gpus)
        if not self.owner_of(pilot):
            self._of_project[pool.project] += pool.gpus
        return gpus

    def launch(self, pool: PoolView, profile: ProfileView) -> tuple[int, ...]:
        self._jobs[profile.name] += 1
        gpus = profile.gpus * pool.nodes
        self._gpus += gpus
        if profile.project:
            self._of_project[profile.project] += gpus
        else:
            self._of_project[pool.project] += pool.gpus
        if pool.nodes == 1:  # one over several nodes leaves no room
            self.drafts.append(Draft(profile, profile.gpus - pool.gpus, profile.mem_mb - pool.mem_mb))
        return tuple(range(pool.gpus))

    def promise(self, pool: PoolView, pilot: PilotView, coming: Collection[ReplicaView]) -> None:
        """Room that `coming` are about to leave is the pool's: of what is free now it keeps what it needs too,
        so that nobody smaller takes it away in the meantime."""
        self.promised[pool.name] = pilot.id
        there = {gpu for replica in coming for gpu in replica.gpu_indices}
        self.moved.update(replica.id for replica in coming)
        rest = [replica for replica in self.clearing.get(pilot.id, ()) if replica not in coming]
        if rest:
            self.clearing[pilot.id] = rest
        else:
            self.clearing.pop(pilot.id, None)
        coming_mb = sum(self.frees_mb(replica, replica.sleep_level) for replica in coming)
        need_mb = max(0, self.need_mb(pool, pilot) - coming_mb)
        self._take(pilot, max(0, pool.gpus - len(there)), min(need_mb, max(0, self._free_mb[pilot.id])))

    def frees_mb(self, replica: ReplicaView, sleep_level: int) -> int:
        """Host memory that it gives back when it has left; less than nothing where it holds more asleep."""
        pool = self.pools.get(replica.pool)
        return self._holds_mb(replica) - (pool.asleep_mem_mb if sleep_level and pool is not None else 0)

    def sleep(self, replica: ReplicaView) -> None:
        """Takes what it holds more asleep than awake."""
        self._free_mb[replica.pilot] += min(0, self.frees_mb(replica, 1))

    def _holds_mb(self, replica: ReplicaView) -> int:
        """Of one that goes to sleep, the more of what it holds awake and will hold asleep."""
        pool = self.pools.get(replica.pool)
        if pool is None or replica.state != "draining" or not replica.sleep_level:
            return replica.mem_mb
        return max(replica.mem_mb, pool.asleep_mem_mb)

    def _take(self, pilot: PilotView, gpus: int, mem_mb: int, these: tuple[int, ...] = ()) -> tuple[int, ...]:
        """`these` GPUs, else the first free ones."""
        self._unshelve(pilot)
        free = self._free[pilot.id]
        taken = these or tuple(free[:gpus])
        self._free[pilot.id] = [gpu for gpu in free if gpu not in taken]
        self._free_mb[pilot.id] -= mem_mb
        self.filled.add(pilot.id)
        self._shelve(pilot)
        return taken

    def _charge(self, replica: ReplicaView) -> None:
        pool = self.pools.get(replica.pool)
        if pool is not None and pool.project and replica.state != "asleep":
            self._of_project[pool.project] += len(replica.gpu_indices)

    def _shelve(self, pilot: PilotView) -> None:
        # Those without a free GPU, too: a replica that runs on CPUs needs none.
        insort(self._rooms[pilot.state == "up", len(self._free[pilot.id])], pilot.id)

    def _unshelve(self, pilot: PilotView) -> None:
        shelf = self._rooms.get((pilot.state == "up", len(self._free[pilot.id])))
        if shelf:
            at = bisect_left(shelf, pilot.id)
            if at < len(shelf) and shelf[at] == pilot.id:
                del shelf[at]
