"""When the jobs that we hold end → how early a successor has to be asked for, and which replicas will not serve
much longer. Pure.

Separate from `handover`, which says what to do about it: placement and the autoscaler reckon with the ends too.
"""

from __future__ import annotations

from portal.fleet.states import COMING
from scheduler.policy.snapshot import PilotView, PoolView, ProfileView, ReplicaView, Snapshot

# Slurm's wait where no job of the profile was seen to wait and Slurm estimates nothing.
UNKNOWN_WAIT_S = 300.0


def lead_s(pool: PoolView, pilot: PilotView, snapshot: Snapshot, life_s: float | None = None) -> float:
    """How long before the pilot's end a successor has to be asked for: Slurm's wait + load + drain + margin.

    Of the wait no more than half of the life that the replica has (`life_s`; else of the profile's walltime)
    is counted: where jobs wait for longer than they run, each would otherwise be replaced as soon as it is up.
    """
    profile = next((p for p in snapshot.profiles if p.name == pilot.profile), None)
    if life_s is None and profile is not None:
        life_s = profile.walltime_s
    wait_s = _wait_s(profile)
    if life_s is not None:
        wait_s = min(wait_s, max(0.0, life_s / 2))
    return wait_s + load_of(pool, pilot) + drain_of(pool) + snapshot.limits.hand_over_margin_s


def closing(pool: PoolView, pilot: PilotView, snapshot: Snapshot, now: float) -> bool:
    """A new replica of the pool would be leaving as soon as it is there: the pilot takes none."""
    if pilot.state == "draining":
        return True
    if pilot.state != "up" or pilot.ends_at is None:
        return False
    left_s = pilot.ends_at - now
    return left_s < lead_s(pool, pilot, snapshot, left_s) + load_of(pool, pilot)


def leaving(snapshot: Snapshot, now: float) -> frozenset[str]:
    """Replicas that will not serve much longer: their pilot drains, or ends before a successor asked for any
    later could be hot."""
    pools = {pool.name: pool for pool in snapshot.pools}
    found = set()
    for pilot in snapshot.pilots:
        for replica in snapshot.by_pilot[pilot.id]:
            pool = pools.get(replica.pool)
            if pilot.state == "draining" or (pool and _late(replica, pool, pilot, snapshot, now)):
                found.add(replica.id)
    return frozenset(found)


def clock(at: float) -> str:
    """14:03 UTC. By hand: policies know no calendar."""
    return f"{int(at // 3600) % 24:02d}:{int(at // 60) % 60:02d} UTC"


def minutes(span_s: float) -> str:
    return f"{span_s:.0f} s" if span_s < 120 else f"{span_s / 60:.0f} min"


def _wait_s(profile: ProfileView | None) -> float:
    """The longer of what jobs waited and what Slurm estimates: asking too early costs little."""
    known = [s for s in (profile.wait_p90_s, profile.starts_in_s) if s is not None] if profile else []
    return max(known, default=UNKNOWN_WAIT_S)


def load_of(pool: PoolView, pilot: PilotView) -> float:
    fit = pool.fits.get(pilot.gpu_type)
    return fit.load_s if fit is not None and fit.load_s is not None else pool.load_s


def drain_of(pool: PoolView) -> float:
    """What has just begun, with some room. Unknown: the margin has to do."""
    return 2 * (pool.service_s or 0.0)


def _late(replica: ReplicaView, pool: PoolView, pilot: PilotView, snapshot: Snapshot, now: float) -> bool:
    """A replica that still starts is not late: where a load takes longer than a walltime lasts, each job would
    otherwise ask for the next one at once."""
    if pilot.state != "up" or pilot.ends_at is None or replica.state in COMING:
        return False
    life_s = pilot.ends_at - replica.hot_at if replica.hot_at is not None else None
    return pilot.ends_at - now < lead_s(pool, pilot, snapshot, life_s)


def end_of(pilot: PilotView) -> float:
    return pilot.ends_at if pilot.ends_at is not None else float("inf")
