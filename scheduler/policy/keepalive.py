"""What is let go: replicas that nobody used for a while, then pilots that host nothing awake. Pure."""

from __future__ import annotations

from collections.abc import Iterator

from portal.fleet.states import ON_ITS_WAY
from scheduler.policy import autoscale
from scheduler.policy.books import Books
from scheduler.policy.decisions import CancelPilot, DrainPilot, DrainReplica
from scheduler.policy.snapshot import PilotView, PoolView, ReplicaView
from scheduler.policy.switching import is_idle


def idle_replicas(pool: PoolView, books: Books) -> Iterator[DrainReplica]:
    """While nobody waits: 1. those above need, idle for lull_s; 2. the last one, idle for keep_alive_s, unless it
    is pinned, asked for or below min_replicas. A replica that is leaving counts for nothing and goes at its
    keep-alive, if nobody wants another. Of several, first those that Slurm may preempt, then the one in the emptiest
    pilot, so that whole pilots go idle.
    """
    if pool.queued:
        return
    snapshot, now = books.snapshot, books.now
    needed = autoscale.needed(pool, snapshot, now)
    hot = [r for r in snapshot.by_pool[pool.name] if r.state == "hot" and r.id not in books.moved]
    staying = [replica for replica in hot if replica.id not in books.gone]
    count = len(staying)
    for replica in sorted(
        staying,
        key=lambda r: (books.is_steady(r), len(snapshot.by_pilot[r.pilot]), r.idle_since or now, r.id),
    ):
        if books.is_silent(replica.pilot):
            continue
        above = count > max(1, needed)
        for_s = min(snapshot.limits.lull_s, pool.keep_alive_s) if above else pool.keep_alive_s
        if count > needed and is_idle(replica, for_s, now):
            count -= 1
            yield _drain(pool, replica, for_s, above, books)
    if needed == 0:
        for replica in hot:
            ends = replica.id in books.leaving and not books.is_silent(replica.pilot)
            if ends and is_idle(replica, pool.keep_alive_s, now):
                yield _drain(pool, replica, pool.keep_alive_s, False, books)


def idle_pilots(books: Books) -> Iterator[DrainPilot | CancelPilot]:
    """Pilots that host nothing, or nothing but what sleeps."""
    pilot_idle_s = books.snapshot.limits.pilot_idle_s
    for pilot in books.snapshot.pilots:
        since = None if books.is_silent(pilot.id) else _empty_since(pilot, books)
        if since is None or pilot.hopeless or pilot.id in books.filled or books.now - since < pilot_idle_s:
            continue
        idle_s = books.now - since
        inputs = {"empty_s": round(idle_s, 1), "pilot_idle_s": pilot_idle_s}
        if pilot.state == "up":
            what = "its GPUs go" if pilot.gpus else "it goes"
            reason = f"It has hosted no model for {idle_s:.0f} s: {what} back to Slurm."
            yield DrainPilot(pilot=pilot.id, reason=reason, inputs={**inputs})
        elif pilot.state in ON_ITS_WAY:
            reason = "No model waits for this job any more: it is withdrawn before it starts."
            yield CancelPilot(pilot=pilot.id, failed=False, reason=reason, inputs={**inputs})


def _drain(pool: PoolView, replica: ReplicaView, for_s: float, above: bool, books: Books) -> DrainReplica:
    now = books.now
    idle_s = now - (replica.idle_since or now)
    told = (
        f"{pool.name} has more replicas than its work needs; this one has been idle for {idle_s:.0f} s."
        if above
        else f"Nobody has used {pool.name} for {idle_s:.0f} s; its keep-alive is {for_s:.0f} s."
    )
    level = _sleep_level(pool, replica, books)
    books.moved.add(replica.id)
    if level:
        books.sleep(replica)
    return DrainReplica(
        pool=pool.name,
        pilot=replica.pilot,
        replica=replica.id,
        sleep_level=level,
        reason=f"{told} It sleeps: its GPUs are free for others." if level else told,
        inputs={"idle_s": round(idle_s, 1), "for_s": for_s, "queued": 0},
    )


def _sleep_level(pool: PoolView, replica: ReplicaView, books: Books) -> int:
    """How deep it may sleep: as the pool allows, as its engine was seen to do, as the pilot's memory holds."""
    level = min(pool.sleep_level, replica.can_sleep)
    holds = books.free_mb(replica.pilot) + replica.mem_mb >= pool.asleep_mem_mb
    return level if holds and replica.id not in books.leaving else 0


def _empty_since(pilot: PilotView, books: Books) -> float | None:
    """Since when it has hosted nothing awake; None while it does."""
    here = books.snapshot.by_pilot[pilot.id]
    if not here:
        return pilot.empty_since
    if any(replica.state != "asleep" or replica.id in books.moved for replica in here):
        return None
    return max((replica.asleep_at or books.now for replica in here), default=None)
