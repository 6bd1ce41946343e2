"""What is let go: replicas that nobody used for a while, then pilots that host nothing awake. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from portal.fleet.states import ON_ITS_WAY, PilotState
from scheduler.policy import autoscale
from scheduler.policy.allocation import Allocation
from scheduler.policy.decisions import CancelPilot, DrainPilot, DrainReplica
from scheduler.policy.views import PilotView, PoolView, ReplicaView


def idle_replicas(pool: PoolView, allocation: Allocation) -> Iterator[DrainReplica]:
    """Yield the pool's replicas that go for want of use, while nobody waits.

    1. Those above need, idle for lull_s; the last one, idle for keep_alive_s, unless it is pinned, asked for or below
       min_replicas. Of several, first those that Slurm may preempt, then the one in the emptiest pilot, so that whole
       pilots go idle.
    2. One that is leaving counts for nothing and goes at its keep-alive, if nobody wants another.
    """
    snapshot, now = allocation.snapshot, allocation.snapshot.now
    hot = [replica for replica in snapshot.hot[pool.name] if replica.id not in allocation.moved]
    if pool.queued or not hot:
        return
    needed = autoscale.needed(pool, snapshot)
    staying = [r for r in hot if r.id not in snapshot.leaving and r.id not in snapshot.unheard]
    count = len(staying)
    for replica in sorted(  # 1
        staying,
        key=lambda r: (snapshot.is_steady(r), len(snapshot.by_pilot[r.pilot]), r.idle_since or now, r.id),
    ):
        if snapshot.is_silent(replica.pilot):
            continue
        above = count > max(1, needed)
        for_s = min(snapshot.limits.lull_s, pool.keep_alive_s) if above else pool.keep_alive_s
        if count > needed and replica.has_idled(for_s, now):
            count -= 1
            yield _drain(pool, replica, allocation, for_s, above=above)
    for replica in hot if needed == 0 else ():  # 2
        ends = replica.id in snapshot.leaving and not snapshot.is_silent(replica.pilot)
        if ends and replica.has_idled(pool.keep_alive_s, now):
            yield _drain(pool, replica, allocation, pool.keep_alive_s, above=False)


def idle_pilots(allocation: Allocation) -> Iterator[DrainPilot | CancelPilot]:
    """Yield pilots that host nothing, or nothing but what sleeps."""
    snapshot = allocation.snapshot
    pilot_idle_s = snapshot.limits.pilot_idle_s
    for pilot in snapshot.pilots:
        since = None if snapshot.is_silent(pilot.id) else _empty_since(pilot, allocation)
        if since is None or pilot.hopeless or pilot.id in allocation.filled:
            continue
        idle_s = snapshot.now - since
        if idle_s < pilot_idle_s:
            continue
        inputs = {"empty_s": round(idle_s, 1), "pilot_idle_s": pilot_idle_s}
        if pilot.state == PilotState.UP:
            what = "its GPUs go" if pilot.gpus else "it goes"
            reason = f"It has hosted no model for {idle_s:.0f} s: {what} back to Slurm."
            yield DrainPilot(pilot=pilot.id, reason=reason, inputs={**inputs})
        elif pilot.state in ON_ITS_WAY:
            reason = "No model waits for this job any more: it is withdrawn before it starts."
            yield CancelPilot(pilot=pilot.id, failed=False, reason=reason, inputs={**inputs})


def _drain(
    pool: PoolView, replica: ReplicaView, allocation: Allocation, for_s: float, *, above: bool
) -> DrainReplica:
    """Return the drain of an idle replica, and take the memory that it holds asleep."""
    now = allocation.snapshot.now
    idle_s = now - (replica.idle_since or now)
    told = (
        f"{pool.name} has more replicas than its work needs; this one has been idle for {idle_s:.0f} s."
        if above
        else f"Nobody has used {pool.name} for {idle_s:.0f} s; its keep-alive is {for_s:.0f} s."
    )
    level = _sleep_level(pool, replica, allocation)
    allocation.moved.add(replica.id)
    if level:
        allocation.sleep(replica)
    return DrainReplica(
        pool=pool.name,
        pilot=replica.pilot,
        replica=replica.id,
        sleep_level=level,
        reason=f"{told} It sleeps: its GPUs are free for others." if level else told,
        inputs={"idle_s": round(idle_s, 1), "for_s": for_s, "queued": 0},
    )


def _sleep_level(pool: PoolView, replica: ReplicaView, allocation: Allocation) -> int:
    """Return how deep it may sleep: as the pool allows, as its engine was seen to do, as the pilot's memory holds."""
    level = min(pool.sleep_level, replica.can_sleep)
    holds = allocation.free_mb(replica.pilot) + replica.mem_mb >= pool.asleep_mem_mb
    return level if holds and replica.id not in allocation.snapshot.leaving else 0


def _empty_since(pilot: PilotView, allocation: Allocation) -> float | None:
    """Return since when it has hosted nothing awake; None while it does."""
    here = allocation.snapshot.by_pilot[pilot.id]
    if not here:
        return pilot.empty_since
    if any(not replica.is_asleep or replica.id in allocation.moved for replica in here):
        return None
    return max((replica.asleep_at or allocation.snapshot.now for replica in here), default=None)
