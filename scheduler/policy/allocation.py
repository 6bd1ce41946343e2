"""What exists, and what of it this tick has given away already. Pure.

Mutable on purpose, and the only such thing here: two pools of one tick must never take the same GPU, the same
memory or the last place under a cap. Indexed, so that a pool asks for room without walking the whole fleet.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from portal.fleet.states import ON_ITS_WAY, PilotState, ReplicaState
from scheduler.policy.snapshot import Hosted, Snapshot
from scheduler.policy.views import PilotView, PoolView, ProfileView, ReplicaView


@dataclass(slots=True)
class Draft:
    """Hold what is left, for the pools that come after, in a job that this tick launches."""

    profile: ProfileView
    free_gpus: int
    free_mb: int


class Allocation:
    """Know which GPUs, memory and places under caps are still free in this tick."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
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
        # Ids of pilots that take replicas, in order, by how many of their GPUs are free: those that are up, and those
        # that are on their way.
        self._up: dict[int, list[str]] = defaultdict(list)
        self._on_its_way: dict[int, list[str]] = defaultdict(list)
        self._staged: dict[str, list[str]] = defaultdict(list)
        for pilot in snapshot.pilots:
            self._enter(pilot)

    def _enter(self, pilot: PilotView) -> None:
        """Take stock of a pilot."""
        here = self.snapshot.by_pilot[pilot.id]
        used = {gpu for replica in here for gpu in replica.gpu_indices}
        self._free[pilot.id] = [gpu for gpu in range(pilot.gpus) if gpu not in used]
        self._free_mb[pilot.id] = pilot.mem_mb - sum(self._holds_mb(replica) for replica in here)
        if self.snapshot.limits.project_gpus:
            self._charge(pilot, here)
        if not self._takes_replicas(pilot, here):
            return
        self._open.add(pilot.id)
        if draining := [replica for replica in here if replica.state == ReplicaState.DRAINING]:
            self.clearing[pilot.id] = draining
        for pool in pilot.staged:
            self._staged[pool].append(pilot.id)
        self._shelve(pilot)

    def _takes_replicas(self, pilot: PilotView, here: Hosted) -> bool:
        """Return whether it reports or is on its way, and nothing that it hosts is leaving."""
        leaving = self.snapshot.leaving
        if pilot.hopeless or any(replica.id in leaving and replica.is_serving for replica in here):
            return False
        return pilot.state in ON_ITS_WAY or (pilot.state == PilotState.UP and pilot.serves)

    # What is there.

    def owner_of(self, pilot: PilotView) -> str:
        """Return the project whose pilot it is; "" = shared."""
        profile = self.snapshot.profiles_by_name.get(pilot.profile)
        return profile.project if profile is not None else ""

    def free_gpus(self, pilot: str) -> list[int]:
        """Return the indices of its free GPUs."""
        return self._free[pilot]

    def free_mb(self, pilot: str) -> int:
        """Return its free host memory, on each of its nodes."""
        return self._free_mb[pilot]

    def need_mb(self, pool: PoolView, pilot: PilotView) -> int:
        """Return the host memory that a replica of the pool needs on top: less where one sleeps that would be woken."""
        asleep = (r.mem_mb for r in self.snapshot.asleep[pool.name] if r.pilot == pilot.id)
        return pool.mem_mb - max(asleep, default=0)

    def is_open(self, pilot: str) -> bool:
        """Return whether it takes replicas, room aside."""
        return pilot in self._open

    def rooms(self, pool: PoolView) -> Iterator[PilotView]:
        """Yield pilots with enough free GPUs, in the order in which they are preferred: up before on their way, then
        with the pool's weights staged, then the fullest, so that whole pilots go idle."""
        pilots, need = self.snapshot.pilots_by_id, pool.gpus
        staged = [pilot for pilot in self._staged.get(pool.name, ()) if len(self._free[pilot]) >= need]
        for pilot in sorted(staged, key=lambda pilot: (len(self._free[pilot]), pilot)):
            if pilots[pilot].state == PilotState.UP:
                yield pilots[pilot]
        for shelves in (self._up, self._on_its_way):
            for free in sorted(n for n, shelf in shelves.items() if n >= need and shelf):
                for pilot in tuple(shelves[free]):
                    yield pilots[pilot]

    def jobs_left(self, profile: ProfileView) -> int:
        """Return how many more jobs may be submitted under the profile."""
        return profile.max_pilots - self._jobs[profile.name]

    def gpus_left(self) -> float:
        """Return how many more GPUs all jobs together may have; infinity without a cap."""
        most = self.snapshot.limits.max_gpus
        return float("inf") if most is None else most - self._gpus

    def project_left(self, project: str) -> float:
        """Return the GPUs that the project may take yet; infinity without a cap.

        Its own are those of its pilots, and those that models which only it may use hold in shared ones."""
        most = self.snapshot.limits.project_gpus.get(project) if project else None
        return float("inf") if most is None else most - self._of_project[project]

    def returned(self, pool: PoolView, coming: Collection[ReplicaView]) -> int:
        """Return the GPUs that the pool's own project gets back when these have left."""
        if not pool.project:
            return 0
        pools = self.snapshot.pools_by_name
        own = (replica for replica in coming if pools.get(replica.pool, pool).project == pool.project)
        return sum(len(replica.gpu_indices) for replica in own)

    # What this tick takes.

    def place(self, pool: PoolView, pilot: PilotView) -> tuple[int, ...]:
        """Take room in the pilot for a new replica of the pool; return its GPUs."""
        gpus = self._take(pilot, pool.gpus, pool.mem_mb)
        if not self.owner_of(pilot):
            self._of_project[pool.project] += pool.gpus
        return gpus

    def wake(self, pool: PoolView, replica: ReplicaView) -> tuple[int, ...]:
        """Take the GPUs that the replica's engine knows, and the memory that it holds awake and not asleep."""
        self.moved.add(replica.id)
        pilot = self.snapshot.pilots_by_id[replica.pilot]
        gpus = self._take(pilot, pool.gpus, pool.mem_mb - replica.mem_mb, replica.home_gpus)
        if not self.owner_of(pilot):
            self._of_project[pool.project] += pool.gpus
        return gpus

    def launch(self, pool: PoolView, profile: ProfileView) -> tuple[int, ...]:
        """Take a place for one more job under the profile; return the GPUs that the pool's replica gets in it."""
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

    def promise(
        self, pool: PoolView, pilot: PilotView, coming: Collection[ReplicaView], coming_mb: int
    ) -> None:
        """Keep for the pool the room that `coming` are about to leave, of which `coming_mb` is host memory.

        Of what is free now it keeps what it needs too, so that nobody smaller takes it away in the meantime."""
        self.promised[pool.name] = pilot.id
        there = {gpu for replica in coming for gpu in replica.gpu_indices}
        ids = {replica.id for replica in coming}
        self.moved |= ids
        rest = [replica for replica in self.clearing.get(pilot.id, ()) if replica.id not in ids]
        if rest:
            self.clearing[pilot.id] = rest
        else:
            self.clearing.pop(pilot.id, None)
        need_mb = max(0, self.need_mb(pool, pilot) - coming_mb)
        self._take(pilot, max(0, pool.gpus - len(there)), min(need_mb, max(0, self._free_mb[pilot.id])))

    def frees_mb(self, replica: ReplicaView, sleep_level: int) -> int:
        """Return the host memory that it gives back when it has left; below 0 where it holds more asleep."""
        pool = self.snapshot.pools_by_name.get(replica.pool)
        return self._holds_mb(replica) - (pool.asleep_mem_mb if sleep_level and pool is not None else 0)

    def sleep(self, replica: ReplicaView) -> None:
        """Take what the replica holds more asleep than awake."""
        self._free_mb[replica.pilot] += min(0, self.frees_mb(replica, 1))

    def _holds_mb(self, replica: ReplicaView) -> int:
        """Return its host memory; of one that goes to sleep, the more of what it holds awake and will hold asleep."""
        if not replica.sleep_level or replica.state != ReplicaState.DRAINING:
            return replica.mem_mb
        pool = self.snapshot.pools_by_name.get(replica.pool)
        return max(replica.mem_mb, pool.asleep_mem_mb) if pool is not None else replica.mem_mb

    def _take(self, pilot: PilotView, gpus: int, mem_mb: int, these: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Take `these` GPUs, else the first free ones; return them."""
        self._unshelve(pilot)
        free = self._free[pilot.id]
        taken = these or tuple(free[:gpus])
        self._free[pilot.id] = [gpu for gpu in free if gpu not in taken]
        self._free_mb[pilot.id] -= mem_mb
        self.filled.add(pilot.id)
        self._shelve(pilot)
        return taken

    def _charge(self, pilot: PilotView, here: Hosted) -> None:
        """Count GPUs to projects: to the owner of a pilot all of its, else to those whose own models it hosts."""
        if owner := self.owner_of(pilot):
            self._of_project[owner] += pilot.gpus
            return
        for replica in here:
            pool = self.snapshot.pools_by_name.get(replica.pool)
            if pool is not None and pool.project:
                self._of_project[pool.project] += len(replica.gpu_indices)

    def _shelve(self, pilot: PilotView) -> None:
        """Enter the pilot under its free GPUs; also without any: a replica that runs on CPUs needs none."""
        insort(self._shelf(pilot), pilot.id)

    def _unshelve(self, pilot: PilotView) -> None:
        """Drop the entry that `_shelve` made."""
        shelf = self._shelf(pilot)
        at = bisect_left(shelf, pilot.id)
        if at < len(shelf) and shelf[at] == pilot.id:
            del shelf[at]

    def _shelf(self, pilot: PilotView) -> list[str]:
        """Return the entries of the pilots that are as it is."""
        shelves = self._up if pilot.state == PilotState.UP else self._on_its_way
        return shelves[len(self._free[pilot.id])]
