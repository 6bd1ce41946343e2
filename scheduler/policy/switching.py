"""Which residents make room for a pool that has no room, and whether that is worth it. Pure.

Both sides are seconds that requests wait, times the weight of their project.

Gain: each of the pool's waiting requests waits no longer for what it would get otherwise: a new job, or
nothing before the bound `wait_bound_s` (counted on top of what it has waited already), and no longer than the
pilot lives on.
Loss: the load of the one; and for each resident that goes, what waits for it and comes back for it, times
(its reload + half of the time that it is away at least). That it is asked for while away is as likely as
`away / (away + idle)`: what was idle for t is, without knowing more, as likely as not idle for another t.

Rules before any weighing: busy is never stopped (invariant 7), only taken out of routing, and that only when
the bound was hit; nothing goes within `min_residency_s` of getting hot, nothing that is pinned, nothing below
min_replicas. Work that has waited for `wait_bound_s` outweighs whatever is resident, also a steady stream
(invariant 8), except what has not had its turn: a turn is four times what changing over costs.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from portal.fleet.states import PilotState, ReplicaState
from scheduler.policy import autoscale, room
from scheduler.policy.allocation import Allocation
from scheduler.policy.profiles import Claim, NewPilot, Nowhere
from scheduler.policy.room import Leaver
from scheduler.policy.views import PilotView, PoolView, ReplicaView

TURN = 4.0


@dataclass(frozen=True, slots=True)
class Clearing:
    """Name the residents of a pilot whose leaving lets the pool in. `forced`: the bound was hit."""

    pilot: PilotView
    leavers: tuple[Leaver, ...]
    gain_s: float
    loss_s: float
    forced: bool


@dataclass(frozen=True, slots=True)
class Shelf:
    """Name what could leave a pilot, the cheapest first."""

    pilot: PilotView
    leavers: list[Leaver]
    gpus: int  # that all of them hold

    @property
    def cheapest_s(self) -> float:
        """Return the least loss among them."""
        return self.leavers[0].loss_s


class Residents:
    """Know what could leave, by pilot, the cheapest first. Looked up once a tick, when the first pool asks."""

    def __init__(self, allocation: Allocation) -> None:
        self._allocation = allocation
        snapshot = allocation.snapshot
        self._serving = Counter({pool: len(staying) for pool, staying in snapshot.staying.items()})
        idle: dict[str, list[Leaver]] = defaultdict(list)
        steady: dict[str, list[Leaver]] = defaultdict(list)
        for pilot in snapshot.pilots:
            if (
                pilot.state != PilotState.UP
                or not allocation.is_open(pilot.id)
                or snapshot.is_silent(pilot.id)
            ):
                continue
            for replica in snapshot.by_pilot[pilot.id]:
                if not self._is_evictable(replica):
                    continue
                leaver = self._leaver(replica, pilot)
                steady[pilot.id].append(leaver)
                if replica.is_asleep or self._gives_way(replica):
                    idle[pilot.id].append(leaver)
        self.idle = self._ordered(idle)
        self.all = self._ordered(steady)

    def spare(self, pool: str) -> int:
        """Return how many of the pool's replicas may go yet."""
        there = self._allocation.snapshot.pools_by_name.get(pool)
        return self._serving[pool] - (there.min_replicas if there is not None else 0)

    def remove(self, clearing: Clearing) -> None:
        """Count those that leave as gone."""
        for leaver in clearing.leavers:
            self._serving[leaver.replica.pool] -= 1

    def _ordered(self, leavers: Mapping[str, list[Leaver]]) -> list[Shelf]:
        """Return the pilots and what could leave them, both the cheapest first."""
        for here in leavers.values():
            here.sort(key=lambda leaver: (leaver.loss_s, leaver.replica.id))
        pilots = self._allocation.snapshot.pilots_by_id
        shelves = [
            Shelf(pilots[pilot], here, sum(leaver.gpus for leaver in here)) for pilot, here in leavers.items()
        ]
        return sorted(shelves, key=lambda shelf: (shelf.cheapest_s, shelf.pilot.id))

    def _is_evictable(self, replica: ReplicaView) -> bool:
        """Return whether the rules let it leave, whatever that would cost."""
        snapshot = self._allocation.snapshot
        pool = snapshot.pools_by_name.get(replica.pool)
        if replica.id in self._allocation.moved or (pool is not None and autoscale.is_pinned(pool, snapshot)):
            return False
        if replica.is_asleep:
            return True
        resident_s = snapshot.now - replica.hot_at if replica.hot_at is not None else float("inf")
        hot = replica.state == ReplicaState.HOT and replica.in_flight is not None
        return hot and resident_s >= snapshot.limits.min_residency_s

    def _gives_way(self, replica: ReplicaView) -> bool:
        """Return whether it is idle and nobody waits for its pool."""
        snapshot = self._allocation.snapshot
        pool = snapshot.pools_by_name.get(replica.pool)
        idle = replica.has_idled(snapshot.limits.switch_after_s, snapshot.now)
        return idle and (pool is None or pool.queued == 0)

    def _leaver(self, replica: ReplicaView, pilot: PilotView) -> Leaver:
        """Return the replica with what its leaving costs and how deep it may sleep."""
        snapshot = self._allocation.snapshot
        pool = snapshot.pools_by_name.get(replica.pool)
        if pool is None:
            return Leaver(replica, 0.0, 0)
        sleep_level = 0 if replica.is_asleep else min(pool.sleep_level, replica.can_sleep)
        load_s = pool.load_on(pilot.gpu_type)
        reload_s = pool.wake_s if sleep_level and pool.wake_s is not None else load_s
        away_s = snapshot.limits.min_residency_s + load_s
        since = replica.asleep_at if replica.is_asleep else replica.idle_since
        again = 1.0 if since is None else away_s / max(away_s, away_s + snapshot.now - since)
        if replica.is_asleep:
            return Leaver(replica, pool.weight * again * load_s, 0)  # only its wake becomes a load
        share = max(1, self._serving[pool.name])
        asked = 1.0 if autoscale.is_asked(pool, snapshot) else 0.0
        come = (replica.in_flight or 0) + (autoscale.urgent(pool) + asked + again) / share
        loss_s = pool.weight * come * (reload_s + away_s / 2) + again * reload_s
        return Leaver(replica, loss_s, sleep_level)


def clear(
    claim: Claim, spot: NewPilot | Nowhere, residents: Residents, allocation: Allocation
) -> Clearing | None:
    """Return the cheapest residents whose leaving is worth less than the pool's work; None: it waits, or gets `spot`."""
    return _forced(claim, residents, allocation) or _worth_it(claim, spot, residents, allocation)


def _forced(claim: Claim, residents: Residents, allocation: Allocation) -> Clearing | None:
    """Return residents that have had their turn, where the pool has waited for longer than anybody should."""
    pool, snapshot = claim.pool, allocation.snapshot
    if (
        not pool.queued
        or (pool.waited_s or 0.0) < snapshot.limits.wait_bound_s
        or _is_served(pool, allocation)
    ):
        return None
    for shelf in residents.all:
        pilot = shelf.pilot
        if pilot.id in allocation.filled or not _could_let_in(claim, shelf, allocation):
            continue
        ripe = [leaver for leaver in shelf.leavers if _had_its_turn(leaver.replica, pool, allocation)]
        if chosen := room.fewest(claim, pilot, ripe, residents.spare, allocation):
            return Clearing(pilot, chosen, _bound_s(pool, allocation), room.loss_s(chosen), forced=True)
    return None


def _worth_it(
    claim: Claim, spot: NewPilot | Nowhere, residents: Residents, allocation: Allocation
) -> Clearing | None:
    """Return idle residents that lose less than the pool's work gains."""
    pool, snapshot = claim.pool, allocation.snapshot
    bound_s = _bound_s(pool, allocation)
    count = pool.weight * max(1.0, autoscale.urgent(pool))
    for shelf in residents.idle:
        pilot = shelf.pilot
        if pilot.id in allocation.filled:
            continue
        load_s = pool.load_on(pilot.gpu_type)
        else_s = min(bound_s, spot.ready_s - load_s) if isinstance(spot, NewPilot) else bound_s
        if shelf.cheapest_s >= count * else_s:
            break
        if not _could_let_in(claim, shelf, allocation):
            continue
        left_s = pilot.ends_at - snapshot.now - load_s if pilot.ends_at is not None else else_s
        gain_s = count * min(else_s, left_s)
        willing = shelf.leavers
        if not pool.queued:
            willing = [leaver for leaver in willing if not _is_asked_for(leaver.replica, allocation)]
        chosen = room.fewest(claim, pilot, willing, residents.spare, allocation)
        if chosen and gain_s > room.loss_s(chosen) + load_s:
            return Clearing(pilot, chosen, gain_s, room.loss_s(chosen) + load_s, forced=False)
    return None


def _could_let_in(claim: Claim, shelf: Shelf, allocation: Allocation) -> bool:
    """Return whether the claim could be met in the pilot if all of them left. A first look, for speed."""
    if shelf.pilot.profile not in claim.profiles:
        return False
    return shelf.gpus + len(allocation.free_gpus(shelf.pilot.id)) >= claim.pool.gpus


def _bound_s(pool: PoolView, allocation: Allocation) -> float:
    """Return how long the pool's work would wait if nothing were done."""
    return allocation.snapshot.limits.wait_bound_s + (pool.waited_s or 0.0)


def _is_served(pool: PoolView, allocation: Allocation) -> bool:
    """Return whether a replica serves the pool or is on the way to it, and be it for the last time."""
    snapshot = allocation.snapshot
    return any(
        replica.is_serving and (replica.id in snapshot.leaving or replica.id not in snapshot.unheard)
        for replica in snapshot.by_pool[pool.name]
    )


def _had_its_turn(replica: ReplicaView, pool: PoolView, allocation: Allocation) -> bool:
    """Return whether it is resident for long enough.

    Changing over then costs a fifth of the time at most, unless the bound is shorter than that."""
    snapshot, limits = allocation.snapshot, allocation.snapshot.limits
    other = snapshot.pools_by_name.get(replica.pool)
    if replica.is_asleep or replica.hot_at is None or other is None:
        return True
    turn_s = min(limits.wait_bound_s, TURN * (pool.load_s + other.load_s))
    idle = replica.has_idled(limits.switch_after_s, snapshot.now)
    return snapshot.now - replica.hot_at >= (limits.min_residency_s if idle else turn_s)


def _is_asked_for(replica: ReplicaView, allocation: Allocation) -> bool:
    """Return whether someone asked to have its pool ready."""
    pool = allocation.snapshot.pools_by_name.get(replica.pool)
    return pool is not None and autoscale.is_asked(pool, allocation.snapshot)
