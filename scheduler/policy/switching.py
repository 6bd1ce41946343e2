"""Which idle replica makes room for a pool that fits nowhere. Pure.

Simple on purpose: only what is idle, only where nobody waits for it, the longest idle first. Weighing the
worth of waiting work against the cost of a reload comes with measured loads.
"""

from __future__ import annotations

from collections.abc import Collection

from scheduler.policy.placement import free_gpus
from scheduler.policy.snapshot import PoolView, ReplicaView, Snapshot


def victim(pool: PoolView, snapshot: Snapshot, spared: Collection[str], now: float) -> ReplicaView | None:
    """The replica whose leaving lets `pool` in, or None. `spared`: replicas that this tick has dealt with."""
    pools = {other.name: other for other in snapshot.pools}
    idle = [
        replica
        for replica in snapshot.replicas
        if replica.id not in spared
        and is_idle(replica, snapshot.limits.switch_after_s, now)
        and _nobody_waits(pools.get(replica.pool))
    ]
    for replica in sorted(idle, key=lambda r: (r.idle_since or now, r.id)):
        pilot = next((p for p in snapshot.pilots if p.id == replica.pilot), None)
        if pilot is None or pilot.state != "up" or not pilot.alive or pilot.profile not in pool.profiles:
            continue
        rest = [r for r in snapshot.by_pilot[pilot.id] if r.id != replica.id]
        if free_gpus(pilot, pool, rest) is not None:
            return replica
    return None


def is_idle(replica: ReplicaView, for_s: float, now: float) -> bool:
    """Hot and heard to be idle for this long. Busy is never evicted (invariant 7), nor is what was not heard."""
    return (
        replica.state == "hot"
        and replica.in_flight == 0
        and replica.idle_since is not None
        and now - replica.idle_since >= for_s
    )


def _nobody_waits(pool: PoolView | None) -> bool:
    return pool is None or (pool.queued == 0 and pool.running == 0 and pool.min_replicas == 0)
