"""One pool → the replica that it lacks, or the reason why it gets none. Pure.

Separate from `decide`, which says in which order the pools come and what follows them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

from portal.fleet.states import ReplicaState
from scheduler.policy import autoscale, handover, latch, placement, profiles, switching
from scheduler.policy.allocation import Allocation
from scheduler.policy.decisions import (
    Decision,
    DrainReplica,
    HoldPool,
    Inputs,
    LaunchPilot,
    PlaceReplica,
    WakeReplica,
)
from scheduler.policy.profiles import Claim, NewPilot, Nowhere
from scheduler.policy.views import PoolView, ReplicaView
from scheduler.policy.words import clock, sentence


@dataclass
class Tick:
    """Hold what this tick has decided so far."""

    allocation: Allocation
    decisions: list[Decision] = field(default_factory=list)
    latched: set[str] = field(default_factory=set)  # pools
    waiting: list[Claim] = field(default_factory=list)  # those that got no replica
    wanted: dict[str, int] = field(default_factory=dict)  # replicas by pool, of those that may be started

    @cached_property
    def residents(self) -> switching.Residents:
        """Return what could leave."""
        return switching.Residents(self.allocation)


def supply(pool: PoolView, tick: Tick) -> None:
    """Decide the replica that the pool lacks, and what its state says from now on."""
    if pool.name in tick.latched:
        return
    snapshot = tick.allocation.snapshot
    target = autoscale.target(pool, snapshot, _ready_s(pool, tick.allocation))
    blocked = autoscale.blocked(pool, snapshot)
    hold = latch.hold_of(pool, snapshot, blocked if target.missing else "")
    if not hold.latched and not blocked:
        tick.wanted[pool.name] = target.wanted
    waits = hold.latched or (hold.retry_at is not None and hold.retry_at > snapshot.now)
    if target.missing and not blocked and not waits:
        claim = profiles.claim(pool, snapshot)
        started, why = _start(claim, target, tick)
        hold = latch.hold_of(pool, snapshot, why)
        if not started:
            tick.waiting.append(claim)
    elif not target.missing and target.wanted and snapshot.parting[pool.name]:
        hold = latch.hold_of(pool, snapshot, handover.gap(pool, snapshot))
    if hold != pool.hold:
        reason = hold.reason or "Nothing holds it back."
        tick.decisions.append(HoldPool(pool=pool.name, hold=hold, reason=reason))


def _ready_s(pool: PoolView, allocation: Allocation) -> float | None:
    """Return how long one more replica would take to come, where the pool has one and may have several."""
    if not pool.queued or pool.max_replicas <= 1 or pool.service_s is None:
        return None
    if not allocation.snapshot.staying[pool.name]:
        return None
    return placement.ready_s(profiles.claim(pool, allocation.snapshot), allocation)


def _start(claim: Claim, target: autoscale.Target, tick: Tick) -> tuple[bool, str]:
    """Decide one replica; return whether it starts now and, where nothing was done for it, why not."""
    pool, allocation = claim.pool, tick.allocation
    inputs, why = _inputs(pool, target), sentence(target.why)
    before = handover.predecessor(pool, allocation.snapshot)
    if before is not None:
        why = f"{why}, but {before.reason}"
        inputs |= before.inputs
    spot = placement.place(claim, allocation)
    match spot:
        case placement.RoomSoon():
            return False, ""
        case placement.Wake(replica):
            reason = f"{why}, and it sleeps in a job that holds {_room(pool)}: it is woken."
            tick.decisions.append(_wake(pool, replica, allocation, reason, inputs))
            return True, ""
        case placement.InPilot(pilot):
            reason = f"{why}, and a job that we already have holds {_room(pool)}."
            gpus = allocation.place(pool, pilot)
            tick.decisions.append(
                PlaceReplica(pool=pool.name, pilot=pilot.id, gpu_indices=gpus, reason=reason, inputs=inputs)
            )
            return True, ""
    if isinstance(spot, Nowhere) and spot.silent:
        return False, spot.reason
    if isinstance(spot, Nowhere) and placement.clear_soon(claim, allocation, float("inf")):
        return False, ""
    if (clearing := switching.clear(claim, spot, tick.residents, allocation)) is not None:
        _switch(pool, clearing, spot, tick)
        return False, ""
    if isinstance(spot, NewPilot):
        tick.decisions.append(_launch(pool, spot, before, allocation, why, inputs))
        return True, ""
    return False, handover.gap(pool, allocation.snapshot) or spot.reason


def _wake(
    pool: PoolView, replica: ReplicaView, allocation: Allocation, reason: str, inputs: Inputs
) -> WakeReplica:
    """Return the wake of a replica, and take what it needs."""
    return WakeReplica(
        pool=pool.name,
        pilot=replica.pilot,
        replica=replica.id,
        gpu_indices=allocation.wake(pool, replica),
        reason=reason,
        inputs=inputs,
    )


def _launch(
    pool: PoolView,
    spot: NewPilot,
    before: handover.Predecessor | None,
    allocation: Allocation,
    why: str,
    inputs: Inputs,
) -> LaunchPilot:
    """Return the launch of a job, and take its place under the caps."""
    until = ""
    if spot.limit_s is not None:
        until = f", up to the reservation of its nodes at {clock(allocation.snapshot.now + spot.limit_s)}"
    return LaunchPilot(
        pool=pool.name,
        profile=spot.profile.name,
        gpu_indices=allocation.launch(pool, spot.profile),
        replaces=before.pilot if before is not None else "",
        limit_s=spot.limit_s,
        reason=f"{why}, and no job of ours has room: a new one is submitted{until}.",
        inputs=inputs,
    )


def _switch(pool: PoolView, clearing: switching.Clearing, spot: NewPilot | Nowhere, tick: Tick) -> None:
    """Drain the residents, and promise the room that they leave to the pool."""
    allocation, now = tick.allocation, tick.allocation.snapshot.now
    tick.residents.remove(clearing)
    coming_mb = sum(allocation.frees_mb(leaver.replica, leaver.sleep_level) for leaver in clearing.leavers)
    coming = [leaver.replica for leaver in clearing.leavers]
    allocation.promise(pool, clearing.pilot, coming, coming_mb)
    for leaver in clearing.leavers:
        replica = leaver.replica
        inputs: Inputs = {
            "gain_s": round(clearing.gain_s, 1),
            "loss_s": round(clearing.loss_s, 1),
            "queued": pool.queued,
            "waited_s": round(pool.waited_s, 1) if pool.waited_s is not None else None,
        }
        if replica.idle_since is not None:
            inputs["idle_s"] = round(now - replica.idle_since, 1)
        tick.decisions.append(
            DrainReplica(
                pool=replica.pool,
                pilot=replica.pilot,
                replica=replica.id,
                sleep_level=leaver.sleep_level,
                reason=_why_leave(pool, replica, clearing, spot),
                inputs=inputs,
            )
        )


def _why_leave(
    pool: PoolView, replica: ReplicaView, clearing: switching.Clearing, spot: NewPilot | Nowhere
) -> str:
    """Return why the replica makes room for the pool."""
    other = replica.pool
    if replica.state == ReplicaState.ASLEEP and other == pool.name:
        return (
            f"{other} sleeps beside GPUs that are taken; loading it on others needs the memory that it holds."
        )
    if replica.state == ReplicaState.ASLEEP:
        return f"{other} sleeps, and {pool.name} needs the memory that it holds."
    if clearing.forced:
        return (
            f"{pool.name} has waited for longer than anybody should while {other} was served: {other} ends what "
            "it has begun, then makes room."
        )
    if isinstance(spot, NewPilot):
        return (
            f"{other} is idle, and {pool.name} has work: making room costs less than waiting for a new job."
        )
    return f"{other} is idle, and {pool.name} has work and nowhere else to run."


def _room(pool: PoolView) -> str:
    """Return what a job has that takes the pool in."""
    return "free GPUs" if pool.gpus else "memory for it"


def _inputs(pool: PoolView, target: autoscale.Target) -> Inputs:
    """Return the numbers that a start was decided from."""
    inputs: Inputs = {
        "queued": pool.queued,
        "running": pool.running,
        "serving": target.serving,
        "wanted": target.wanted,
    }
    if target.backlog_s is not None:
        inputs["backlog_s"] = round(target.backlog_s, 1)
    return inputs
