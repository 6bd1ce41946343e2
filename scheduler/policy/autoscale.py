"""How many replicas a pool should have, against how many it has or will have. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from scheduler.policy.snapshot import SERVING, PoolView, Snapshot


@dataclass(frozen=True, slots=True)
class Target:
    wanted: int
    serving: int  # hot, or on the way to it
    why: str  # why it is wanted, for the decision's reason

    @property
    def missing(self) -> int:
        return max(0, self.wanted - self.serving)


def target(pool: PoolView, snapshot: Snapshot, now: float) -> Target:
    """One replica while there is work or someone has asked for it, never below min_replicas nor above
    max_replicas. Parked work is not in `queued` and wants nothing (invariant 11)."""
    serving = sum(replica.state in SERVING for replica in snapshot.by_pool[pool.name])
    asked = pool.interest_until is not None and pool.interest_until > now
    wanted, why = 0, ""
    if pool.queued > 0:
        wanted, why = 1, f"{pool.queued} request{'s' if pool.queued > 1 else ''} waiting for {pool.name}"
    elif asked:
        wanted, why = 1, f"someone asked to have {pool.name} ready"
    if pool.min_replicas > wanted:
        wanted, why = pool.min_replicas, f"{pool.name} is to be kept ready"
    return Target(min(wanted, pool.max_replicas), serving, why)


def blocked(pool: PoolView, snapshot: Snapshot) -> str:
    """Why nothing may be started for the pool now, in words; "" when it may."""
    if snapshot.paused:
        return "An operator has paused the whole fleet; nothing is started."
    if pool.paused:
        return "An operator has paused this model; nothing is started for it."
    return ""
