"""What is let go: replicas that nobody used for their keep-alive, then pilots without replicas. Pure."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from scheduler.policy.decisions import CancelPilot, DrainPilot, DrainReplica
from scheduler.policy.snapshot import ON_ITS_WAY, PoolView, Snapshot
from scheduler.policy.switching import is_idle


def idle_replicas(pool: PoolView, snapshot: Snapshot, now: float) -> Iterator[DrainReplica]:
    """Those idle for keep_alive_s, while nobody waits or has asked to have it ready, down to min_replicas."""
    if pool.queued or (pool.interest_until is not None and pool.interest_until > now):
        return
    hot = [replica for replica in snapshot.by_pool[pool.name] if replica.state == "hot"]
    idle = sorted(
        (replica for replica in hot if is_idle(replica, pool.keep_alive_s, now)),
        key=lambda replica: (replica.idle_since or now, replica.id),
    )
    for replica in idle[: max(0, len(hot) - pool.min_replicas)]:
        idle_s = now - (replica.idle_since or now)
        yield DrainReplica(
            pool=pool.name,
            pilot=replica.pilot,
            replica=replica.id,
            reason=f"Nobody has used {pool.name} for {idle_s:.0f} s; its keep-alive is {pool.keep_alive_s:.0f} s.",
            inputs={"idle_s": round(idle_s, 1), "keep_alive_s": pool.keep_alive_s, "queued": 0},
        )


def idle_pilots(
    snapshot: Snapshot, filled: Collection[str], now: float
) -> Iterator[DrainPilot | CancelPilot]:
    """Pilots that host nothing. `filled`: those that get a replica in this tick."""
    for pilot in snapshot.pilots:
        if pilot.empty_since is None or pilot.hopeless or pilot.id in filled or snapshot.by_pilot[pilot.id]:
            continue
        idle_s = now - pilot.empty_since
        if idle_s < snapshot.limits.pilot_idle_s:
            continue
        inputs = {"empty_s": round(idle_s, 1), "pilot_idle_s": snapshot.limits.pilot_idle_s}
        if pilot.state == "up":
            reason = f"It has hosted no model for {idle_s:.0f} s: its GPUs go back to Slurm."
            yield DrainPilot(pilot=pilot.id, reason=reason, inputs={**inputs})
        elif pilot.state in ON_ITS_WAY:
            reason = "No model waits for this job any more: it is withdrawn before it starts."
            yield CancelPilot(pilot=pilot.id, failed=False, reason=reason, inputs={**inputs})
