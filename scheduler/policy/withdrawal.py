"""Jobs that wait in Slurm's line and are of no use: those that will never start, and those for models that nobody wants
any more. Pure.

Separate from keep-alive, which lets go of what runs: a place in the line costs nothing and took long to earn, so it
outlives its callers for as long as the model itself would have.
"""

from __future__ import annotations

from collections.abc import Iterator

from portal.fleet.states import ON_ITS_WAY
from scheduler.policy import autoscale, latch
from scheduler.policy.allocation import Allocation
from scheduler.policy.decisions import CancelPilot, HoldPool, HoldProfile
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PilotView


def hopeless_jobs(snapshot: Snapshot) -> Iterator[CancelPilot | HoldProfile | HoldPool]:
    """Cancel jobs that will never start, and latch what they were submitted under: a second job like it would wait for
    ever too. The pools that waited for it are latched with it when no other profile is left to them."""
    hopeless = [pilot for pilot in snapshot.pilots if pilot.hopeless and not snapshot.is_silent(pilot.id)]
    if not hopeless:
        return
    reasons = {pilot.profile: _never(pilot) for pilot in reversed(hopeless)}  # by profile
    left = {profile.name for profile in snapshot.profiles if profile.is_open and profile.name not in reasons}
    pools = snapshot.pools_by_name
    for pilot in hopeless:
        waiting = [pools[r.pool] for r in snapshot.by_pilot[pilot.id] if r.pool in pools]
        # Where another profile is left, this one is to blame, and not the models.
        failed = not all(left.intersection(pool.profiles) for pool in waiting)
        yield CancelPilot(pilot=pilot.id, failed=failed, reason=_never(pilot))
    for name, reason in reasons.items():
        profile = snapshot.profiles_by_name.get(name)
        if profile is not None and not profile.latched:
            yield HoldProfile(profile=name, reason=reason)
    latched = set()
    for replica in snapshot.replicas:
        pool, where = pools.get(replica.pool), snapshot.pilots_by_id.get(replica.pilot)
        if pool is None or where is None or not where.hopeless or where.profile not in reasons:
            continue
        if pool.name in latched or left.intersection(pool.profiles):
            continue
        latched.add(pool.name)
        reason = reasons[where.profile]
        yield HoldPool(pool=pool.name, hold=latch.latched_by(pool, reason), reason=reason)


def unwanted_jobs(allocation: Allocation) -> Iterator[CancelPilot]:
    """Cancel jobs on their way whose every replica is older than its pool's keep-alive, of pools that want none."""
    snapshot = allocation.snapshot
    for pilot in snapshot.pilots:
        if pilot.state not in ON_ITS_WAY or pilot.hopeless or pilot.id in allocation.filled:
            continue
        waiting = snapshot.by_pilot[pilot.id]
        if not waiting or snapshot.is_silent(pilot.id):
            continue
        pools = {name: snapshot.pools_by_name.get(name) for name in sorted({r.pool for r in waiting})}
        unwanted = {
            name: pool
            for name, pool in pools.items()
            if pool is not None and autoscale.target(pool, snapshot).wanted == 0
        }
        if all(
            replica.pool in unwanted
            and snapshot.now - replica.wanted_at >= unwanted[replica.pool].keep_alive_s
            for replica in waiting
        ):
            yield CancelPilot(
                pilot=pilot.id,
                failed=False,
                reason=f"Nobody wants {', '.join(pools)} any more: its job is withdrawn before it starts.",
                inputs={"waited_s": round(snapshot.now - pilot.planned_at, 1), "queued": 0},
            )


def _never(pilot: PilotView) -> str:
    """Return the sentence for a job that will never start."""
    return f"Slurm will never start its job: {pilot.hopeless}."
