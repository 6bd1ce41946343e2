"""How many replicas a pool should have, against how many it has or will have. Pure."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import ceil

from portal.fleet.states import SERVING
from scheduler.policy.snapshot import PoolView, ReplicaView, Snapshot

# A backlog of batch lines calls for another replica only when it is this many times as long as one of requests.
PATIENCE = 4.0


@dataclass(frozen=True, slots=True)
class Target:
    wanted: int
    serving: int  # hot, or on the way to it, and neither silent nor leaving
    why: str  # why it is wanted, for the decision's reason
    backlog_s: float | None = None  # how long the present ones need for what waits; None: unknown

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.serving)


def target(
    pool: PoolView,
    snapshot: Snapshot,
    now: float,
    gone: Collection[str] = (),
    ready_s: float | None = None,
) -> Target:
    """`gone`: replicas that are silent or will not serve much longer. `ready_s`: how long another one takes to come.

    1. One replica while there is work, or someone asked for it, or it is pinned, or was used within its
       keep-alive: that is also the forecast which renews a job that ends.
    2. As many as hold what runs now.
    3. One more for as long as the present ones would need longer for what waits than another one takes to
       come (Slurm's wait and the load). Batch lines count for less. With an unknown engine time: one.
    4. Never below min_replicas, never above max_replicas.

    Parked work is not in `queued` and wants nothing (invariant 11).
    """
    here = snapshot.by_pool[pool.name]
    serving = sum(replica.state in SERVING and replica.id not in gone for replica in here)
    wanted, why = _first(pool, here, now)
    busy = ceil(_running(pool, here) / pool.cap)
    if wanted and busy > wanted:
        wanted, why = busy, f"{pool.name} is used by as many requests as {busy} replicas hold"
    backlog_s = _backlog_s(pool, max(1, serving))
    if pool.queued and backlog_s is not None and ready_s is not None and serving:
        enough = max(serving, wanted)
        while enough < pool.max_replicas and (_backlog_s(pool, enough) or 0.0) > ready_s:
            enough += 1
        if enough > max(serving, wanted):
            wanted = enough
            why = f"what waits for {pool.name} keeps it busy for longer than another replica takes to come"
    if pool.min_replicas > wanted:
        wanted, why = pool.min_replicas, f"{pool.name} is to be kept ready"
    return Target(min(wanted, pool.max_replicas), serving, why, backlog_s)


def needed(pool: PoolView, snapshot: Snapshot, now: float) -> int:
    """Replicas that stay however idle they are, and hold what runs now."""
    floor = 1 if is_asked(pool, now) or is_pinned(pool, now) else 0
    here = snapshot.by_pool[pool.name]
    return max(pool.min_replicas, floor, ceil(_running(pool, here) / pool.cap))


def urgent(pool: PoolView) -> float:
    """Waiting requests, those of batches for less."""
    return pool.queued - pool.queued_batch + pool.queued_batch / PATIENCE


def is_asked(pool: PoolView, now: float) -> bool:
    return pool.interest_until is not None and pool.interest_until > now


def is_pinned(pool: PoolView, now: float) -> bool:
    return pool.pinned_until is not None and pool.pinned_until > now


def blocked(pool: PoolView, snapshot: Snapshot) -> str:
    """Why nothing may be started for the pool now, in words; "" when it may."""
    if snapshot.paused and (own := [name for name in pool.profiles if name in snapshot.profile_names]):
        if snapshot.paused.issuperset(snapshot.profile_names):
            return "An operator has paused the whole fleet; nothing is started."
        if snapshot.paused.issuperset(own):
            return "An operator has paused the cluster of its profiles; nothing is started for it."
    if pool.paused:
        return "An operator has paused this model; nothing is started for it."
    return ""


def _first(pool: PoolView, here: Collection[ReplicaView], now: float) -> tuple[int, str]:
    if pool.queued > 0:
        return 1, f"{pool.queued} request{'s' if pool.queued > 1 else ''} waiting for {pool.name}"
    if is_pinned(pool, now):
        return 1, f"{pool.name} is pinned"
    if is_asked(pool, now):
        return 1, f"someone asked to have {pool.name} ready"
    if any(_used(replica, pool, now) for replica in here):
        return 1, f"{pool.name} is in use"
    return 0, ""


def _used(replica: ReplicaView, pool: PoolView, now: float) -> bool:
    """Busy, or used within its keep-alive. What runs on a replica that drains ends there or comes back as queued."""
    if replica.state != "hot":
        return False
    if replica.in_flight is None:
        return pool.running > 0
    lately = replica.idle_since is not None and now - replica.idle_since < pool.keep_alive_s
    return replica.in_flight > 0 or lately


def _running(pool: PoolView, here: Collection[ReplicaView]) -> int:
    """Requests in flight in hot replicas, as they report; where one is silent, as the ledger says."""
    hot = [replica.in_flight for replica in here if replica.state == "hot"]
    return pool.running if None in hot else sum(n for n in hot if n is not None)


def _backlog_s(pool: PoolView, replicas: int) -> float | None:
    """How long so many replicas need for what waits and, on average half done, what runs."""
    if pool.service_s is None:
        return None
    return (urgent(pool) + pool.running / 2) * pool.service_s / (pool.cap * replicas)
