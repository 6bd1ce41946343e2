"""Everything the policies may know, as one immutable value, and what follows from it alone. Pure.

Built from rows, the last listing and the pilots' last reports by `scheduler.observe.snapshot`; the simulator builds the
same from nothing. Whoever asks for an index, for what serves and stays, or for what leaves, asks here: each is worked
out once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

from portal.fleet.states import COMING, SERVING, PilotState, ReplicaState
from scheduler.policy.views import UNKNOWN_WAIT_S, Limits, PilotView, PoolView, ProfileView, ReplicaView

Hosted = tuple[ReplicaView, ...]


@dataclass(frozen=True)
class Snapshot:
    """Hold the fleet, the catalog and the demand of one moment."""

    pools: tuple[PoolView, ...]
    pilots: tuple[PilotView, ...]
    replicas: tuple[ReplicaView, ...]  # live ones
    profiles: tuple[ProfileView, ...]
    limits: Limits
    now: float  # the moment
    # By profile: why its jobs are neither launched nor let go now, in words. Their way to Slurm does not answer.
    silent: Mapping[str, str] = field(default_factory=dict)
    paused: frozenset[str] = frozenset()  # profiles in whose cluster an operator has paused the fleet

    @cached_property
    def pools_by_name(self) -> dict[str, PoolView]:
        """Return every pool under its name."""
        return {pool.name: pool for pool in self.pools}

    @cached_property
    def profiles_by_name(self) -> dict[str, ProfileView]:
        """Return every profile under its name."""
        return {profile.name: profile for profile in self.profiles}

    @cached_property
    def pilots_by_id(self) -> dict[str, PilotView]:
        """Return every pilot under its id."""
        return {pilot.id: pilot for pilot in self.pilots}

    @cached_property
    def by_pilot(self) -> dict[str, Hosted]:
        """Return the live replicas of each pilot, under its id."""
        return _grouped((pilot.id for pilot in self.pilots), self.replicas, lambda replica: replica.pilot)

    @cached_property
    def by_pool(self) -> dict[str, Hosted]:
        """Return the live replicas of each pool, under its name."""
        return _grouped((pool.name for pool in self.pools), self.replicas, lambda replica: replica.pool)

    @cached_property
    def hot(self) -> dict[str, Hosted]:
        """Return the replicas of each pool of which the engine answers, under its name."""
        return self._in_state(ReplicaState.HOT)

    @cached_property
    def asleep(self) -> dict[str, Hosted]:
        """Return the replicas of each pool of which the engine is parked in host memory, under its name."""
        return self._in_state(ReplicaState.ASLEEP)

    @cached_property
    def leaving(self) -> frozenset[str]:
        """Return the ids of replicas that will not serve much longer: their pilot drains, or ends before a successor
        asked for any later could be hot."""
        gone: set[str] = set()
        for pilot in self.pilots:
            if pilot.state == PilotState.DRAINING:
                gone.update(replica.id for replica in self.by_pilot[pilot.id])
            elif pilot.state == PilotState.UP and pilot.ends_at is not None:
                left_s = pilot.ends_at - self.now
                gone.update(r.id for r in self.by_pilot[pilot.id] if self._is_late(r, pilot, left_s))
        return frozenset(gone)

    @cached_property
    def unheard(self) -> frozenset[str]:
        """Return the ids of replicas whose agent is silent or goes: as far as is known they serve nobody."""
        mute = (pilot for pilot in self.pilots if not pilot.serves and pilot.state == PilotState.UP)
        return frozenset(replica.id for pilot in mute for replica in self.by_pilot[pilot.id])

    @cached_property
    def staying(self) -> dict[str, Hosted]:
        """Return, by pool, the replicas that serve or are on the way to it, and are neither leaving nor unheard."""
        gone = self.leaving | self.unheard
        return self._of_pools(r for r in self.replicas if r.state in SERVING and r.id not in gone)

    @cached_property
    def parting(self) -> dict[str, Hosted]:
        """Return, by pool, the replicas that serve or are on the way to it, and are leaving: they need successors."""
        leaving = self.leaving
        return self._of_pools(r for r in self.replicas if r.id in leaving and r.state in SERVING)

    def is_silent(self, pilot: str) -> bool:
        """Return whether the way to its job is silent: it is neither drained nor cancelled then (invariant 1)."""
        there = self.pilots_by_id.get(pilot)
        return there is not None and there.profile in self.silent

    def is_steady(self, replica: ReplicaView) -> bool:
        """Return whether its job is one that Slurm does not preempt."""
        pilot = self.pilots_by_id.get(replica.pilot)
        profile = self.profiles_by_name.get(pilot.profile) if pilot is not None else None
        return profile is not None and not profile.preemptible

    def lead_s(self, pool: PoolView, pilot: PilotView, life_s: float | None = None) -> float:
        """Return how long before the pilot's end a successor has to be asked for: Slurm's wait + load + drain + margin.

        Of the wait no more than half of the life that the replica has (`life_s`; else of the profile's walltime)
        is counted: where jobs wait for longer than they run, each would otherwise be replaced as soon as it is up.
        """
        profile = self.profiles_by_name.get(pilot.profile)
        if life_s is None and profile is not None:
            life_s = profile.walltime_s
        wait_s = profile.cautious_wait_s if profile is not None else UNKNOWN_WAIT_S
        if life_s is not None:
            wait_s = min(wait_s, max(0.0, life_s / 2))
        return wait_s + pool.load_on(pilot.gpu_type) + pool.drain_s + self.limits.hand_over_margin_s

    def is_closing(self, pool: PoolView, pilot: PilotView) -> bool:
        """Return whether a new replica of the pool would be leaving as soon as it is there: the pilot takes none."""
        if pilot.state == PilotState.DRAINING:
            return True
        if pilot.state != PilotState.UP or pilot.ends_at is None:
            return False
        left_s = pilot.ends_at - self.now
        return left_s < self.lead_s(pool, pilot, left_s) + pool.load_on(pilot.gpu_type)

    def _is_late(self, replica: ReplicaView, pilot: PilotView, left_s: float) -> bool:
        """Return whether a successor has to be asked for now, when the job ends in `left_s`.

        A replica that still starts is not late: where a load takes longer than a walltime lasts, each job would
        otherwise ask for the next one at once."""
        pool = self.pools_by_name.get(replica.pool)
        if pool is None or replica.state in COMING:
            return False
        life_s = self.now + left_s - replica.hot_at if replica.hot_at is not None else None
        return left_s < self.lead_s(pool, pilot, life_s)

    def _in_state(self, state: ReplicaState) -> dict[str, Hosted]:
        """Return the replicas of each pool that are in the state."""
        return self._of_pools(replica for replica in self.replicas if replica.state == state)

    def _of_pools(self, replicas: Iterable[ReplicaView]) -> dict[str, Hosted]:
        """Return those of these replicas that each pool has; () for a pool without any."""
        return _grouped(self.by_pool, replicas, lambda replica: replica.pool)


def _grouped(
    keys: Iterable[str], replicas: Iterable[ReplicaView], key: Callable[[ReplicaView], str]
) -> dict[str, Hosted]:
    """Return the replicas under each key, in their order; also under those that no replica has."""
    lists: dict[str, list[ReplicaView]] = {}
    for replica in replicas:
        lists.setdefault(key(replica), []).append(replica)
    groups: dict[str, Hosted] = dict.fromkeys(keys, ())
    groups.update((name, tuple(hosted)) for name, hosted in lists.items())
    return groups
