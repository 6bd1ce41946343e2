"""How many replicas a pool should have, against how many it has or will have. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import ceil

from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PoolView, ReplicaView

# A backlog of batch lines calls for another replica only when it is this many times as long as one of requests.
PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Target:
    """Say how many replicas a pool should have, how many of them it has, and why."""

    wanted: int
    serving: int  # hot, or on the way to it, and neither silent nor leaving
    why: str  # why it is wanted, for the decision's reason
    backlog_s: float | None = None  # how long the present ones need for what waits; None: unknown

    @property
    def missing(self) -> int:
        """Return how many replicas the pool lacks."""
        return max(0, self.wanted - self.serving)


def target(pool: PoolView, snapshot: Snapshot, ready_s: float | None = None) -> Target:
    """Return how many replicas the pool should have. `ready_s`: how long another one takes to come.

    1. One replica while there is work, or someone asked for it, or it is pinned, or was used within its
       keep-alive: that is also the forecast which renews a job that ends.
    2. As many as hold what runs now.
    3. One more for as long as the present ones would need longer for what waits than another one takes to
       come (Slurm's wait and the load). Batch lines count for less. With an unknown engine time: one.
    4. Never below min_replicas, never above max_replicas.

    Parked work is not in `queued` and wants nothing (invariant 11).
    """
    hot = snapshot.hot[pool.name]
    serving = len(snapshot.staying[pool.name])
    wanted, why = _first(pool, hot, snapshot)  # 1
    busy = ceil(_running(pool, hot) / pool.cap)
    if wanted and busy > wanted:  # 2
        wanted, why = busy, f"{pool.name} is used by as many requests as {busy} replicas hold"
    backlog_s = _backlog_s(pool, max(1, serving))
    if pool.queued and backlog_s is not None and ready_s is not None and serving:  # 3
        enough = max(serving, wanted)
        while enough < pool.max_replicas and (_backlog_s(pool, enough) or 0.0) > ready_s:
            enough += 1
        if enough > max(serving, wanted):
            wanted = enough
            why = f"what waits for {pool.name} keeps it busy for longer than another replica takes to come"
    if pool.min_replicas > wanted:  # 4
        wanted, why = pool.min_replicas, f"{pool.name} is to be kept ready"
    return Target(min(wanted, pool.max_replicas), serving, why, backlog_s)


def needed(pool: PoolView, snapshot: Snapshot) -> int:
    """Return how many replicas stay however idle they are, and hold what runs now."""
    floor = 1 if is_asked(pool, snapshot) or is_pinned(pool, snapshot) else 0
    return max(pool.min_replicas, floor, ceil(_running(pool, snapshot.hot[pool.name]) / pool.cap))


def urgent(pool: PoolView) -> float:
    """Return how many requests wait, those of batches counted for less."""
    return pool.queued - pool.queued_batch + pool.queued_batch / PATIENCE


def is_asked(pool: PoolView, snapshot: Snapshot) -> bool:
    """Return whether someone asked to have the pool ready now."""
    return pool.interest_until is not None and pool.interest_until > snapshot.now


def is_pinned(pool: PoolView, snapshot: Snapshot) -> bool:
    """Return whether the pool is to stay resident now, by an operator's word."""
    return pool.pinned_until is not None and pool.pinned_until > snapshot.now


def blocked(pool: PoolView, snapshot: Snapshot) -> str:
    """Return why nothing may be started for the pool now, in words; "" when it may."""
    if snapshot.paused and (own := [name for name in pool.profiles if name in snapshot.profiles_by_name]):
        if snapshot.paused.issuperset(snapshot.profiles_by_name):
            return "An operator has paused the whole fleet; nothing is started."
        if snapshot.paused.issuperset(own):
            return "An operator has paused the cluster of its profiles; nothing is started for it."
    if pool.paused:
        return "An operator has paused this model; nothing is started for it."
    return ""


def _first(pool: PoolView, hot: Iterable[ReplicaView], snapshot: Snapshot) -> tuple[int, str]:
    """Return 1 and the reason where the pool wants a replica at all, else 0."""
    if pool.queued > 0:
        return 1, f"{pool.queued} request{'s' if pool.queued > 1 else ''} waiting for {pool.name}"
    if is_pinned(pool, snapshot):
        return 1, f"{pool.name} is pinned"
    if is_asked(pool, snapshot):
        return 1, f"someone asked to have {pool.name} ready"
    if any(_is_used(replica, pool, snapshot.now) for replica in hot):
        return 1, f"{pool.name} is in use"
    return 0, ""


def _is_used(replica: ReplicaView, pool: PoolView, now: float) -> bool:
    """Return whether a hot replica is busy, or was used within its keep-alive.

    What runs on a replica that drains ends there or comes back as queued."""
    if replica.in_flight is None:
        return pool.running > 0
    lately = replica.idle_since is not None and now - replica.idle_since < pool.keep_alive_s
    return replica.in_flight > 0 or lately


def _running(pool: PoolView, hot: Iterable[ReplicaView]) -> int:
    """Return the requests in flight in hot replicas, as they report; where one is silent, as the ledger says."""
    running = 0
    for replica in hot:
        if replica.in_flight is None:
            return pool.running
        running += replica.in_flight
    return running


def _backlog_s(pool: PoolView, replicas: int) -> float | None:
    """Return how long so many replicas need for what waits and, on average half done, what runs."""
    if pool.service_s is None:
        return None
    return (urgent(pool) + pool.running / 2) * pool.service_s / (pool.cap * replicas)
