"""`decide(snapshot)`: the policies put together, in the order in which they may contradict each other.

Pure (invariant 9): the control loop and the simulator run the same function. A tick decides at most one
new replica per pool, so that what it asks for is bounded by what exists.

All policies take their arguments in one style: first what is asked about (a pool, a claim, a pilot), then what it is
judged by: the `Snapshot` where the facts of the moment are enough (its time and its limits are among them), or the
`Allocation` where what this tick has given away counts too.
"""

from __future__ import annotations

from scheduler.policy import handover, keepalive, staging, withdrawal
from scheduler.policy.allocation import Allocation
from scheduler.policy.decisions import Decision, DrainPilot, HoldPool
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.supply import Tick, supply
from scheduler.policy.views import PoolView


def decide(snapshot: Snapshot) -> list[Decision]:
    """Return what is to be done about the fleet now.

    1. Jobs that will never start are withdrawn.
    2. Each pool gets the replica it lacks, or the reason why not; those whose work has waited longest, times its
       project's weight, come first.
    3. Replicas whose successor is hot drain.
    4. Replicas past their keep-alive drain.
    5. Empty pilots, and jobs for what nobody wants any more, are let go.
    6. Of what has to wait for room, the weights are staged where it may come.

    Where the way to Slurm is silent, only a pilot that we have may get a replica: nothing is launched, drained or
    cancelled by it (invariant 1). Other ways are not held by that."""
    tick = Tick(Allocation(snapshot))
    tick.decisions += withdrawal.hopeless_jobs(snapshot)  # 1
    tick.latched = {decision.pool for decision in tick.decisions if isinstance(decision, HoldPool)}
    for pool in sorted(snapshot.pools, key=_turn):  # 2
        supply(pool, tick)
    _hand_over(tick)  # 3
    for pool in snapshot.pools:  # 4
        tick.decisions += keepalive.idle_replicas(pool, tick.allocation)
    let_go = {decision.pilot for decision in tick.decisions if isinstance(decision, DrainPilot)}
    tick.decisions += (d for d in keepalive.idle_pilots(tick.allocation) if d.pilot not in let_go)  # 5
    tick.decisions += withdrawal.unwanted_jobs(tick.allocation)
    tick.decisions += staging.ahead(tick.waiting, tick.allocation)  # 6
    return tick.decisions


def _turn(pool: PoolView) -> tuple[float, str]:
    """Return the key that sorts pools by their turn."""
    return -pool.weight * (pool.waited_s or 0.0), pool.name


def _hand_over(tick: Tick) -> None:
    """Drain what hands over, unless this tick has other plans with it."""
    allocation, snapshot = tick.allocation, tick.allocation.snapshot
    for drain in handover.drains(snapshot, tick.wanted):
        if drain.pilot in allocation.filled or snapshot.is_silent(drain.pilot):
            continue
        if isinstance(drain, DrainPilot):
            allocation.moved.update(replica.id for replica in snapshot.by_pilot[drain.pilot])
        elif drain.replica in allocation.moved:
            continue
        else:
            allocation.moved.add(drain.replica)
        tick.decisions.append(drain)
