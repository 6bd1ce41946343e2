"""`decide(snapshot, now)`: the policies put together, in the order in which they may contradict each other.

Pure (invariant 9): the control loop and the simulator run the same function. A tick decides at most one
new replica per pool, so that what it asks for is bounded by what exists.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from scheduler.policy import autoscale, keepalive, latch, switching
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainReplica,
    HoldPool,
    LaunchPilot,
    PlaceReplica,
)
from scheduler.policy.placement import Draft, InPilot, NewPilot, Nowhere, RoomSoon, place
from scheduler.policy.snapshot import PoolView, ReplicaView, Snapshot


@dataclass
class _Draft:
    """What this tick has decided so far: later pools must see what earlier ones took."""

    decisions: list[Decision] = field(default_factory=list)
    taken: list[ReplicaView] = field(default_factory=list)
    drafts: list[Draft] = field(default_factory=list)
    leaving: set[str] = field(default_factory=set)
    latched: set[str] = field(default_factory=set)


def decide(snapshot: Snapshot, now: float) -> list[Decision]:
    """1. Jobs that will never start are withdrawn. 2. Each pool gets the replica it lacks, or the reason why
    not. 3. Replicas past their keep-alive drain. 4. Empty pilots are let go.

    When Slurm did not answer, only a pilot that reports may get a replica: nothing is launched, drained or
    cancelled (invariant 1)."""
    draft = _Draft()
    if snapshot.slurm_fresh:
        _withdraw(snapshot, draft)
    for pool in sorted(snapshot.pools, key=lambda pool: pool.name):
        _supply(pool, snapshot, draft, now)
    if snapshot.slurm_fresh:
        for pool in snapshot.pools:
            for drain in keepalive.idle_replicas(pool, snapshot, now):
                if drain.replica not in draft.leaving:
                    draft.leaving.add(drain.replica)
                    draft.decisions.append(drain)
        filled = {replica.pilot for replica in draft.taken}
        draft.decisions += keepalive.idle_pilots(snapshot, filled, now)
    return draft.decisions


def _withdraw(snapshot: Snapshot, draft: _Draft) -> None:
    """Cancels jobs that will never start, and latches the pools that waited for them: a second job like it
    would wait for ever too."""
    pools = {pool.name: pool for pool in snapshot.pools}
    for pilot in snapshot.pilots:
        if not pilot.hopeless:
            continue
        reason = f"Slurm will never start its job: {pilot.hopeless}."
        draft.decisions.append(CancelPilot(pilot=pilot.id, failed=True, reason=reason))
        for replica in snapshot.by_pilot[pilot.id]:
            pool = pools.get(replica.pool)
            if pool is not None and pool.name not in draft.latched:
                draft.latched.add(pool.name)
                hold = latch.latched_by(pool, reason)
                draft.decisions.append(HoldPool(pool=pool.name, hold=hold, reason=reason))


def _supply(pool: PoolView, snapshot: Snapshot, draft: _Draft, now: float) -> None:
    if pool.name in draft.latched:
        return
    target = autoscale.target(pool, snapshot, now)
    reason = autoscale.blocked(pool, snapshot) if target.missing else ""
    held = latch.hold_of(pool, snapshot.limits, reason)
    waits = held.latched or (held.retry_at is not None and held.retry_at > now)
    if target.missing and not reason and not waits:
        reason = _start(pool, target, snapshot, draft, now)
        held = latch.hold_of(pool, snapshot.limits, reason)
    if held != pool.hold:
        draft.decisions.append(
            HoldPool(pool=pool.name, hold=held, reason=held.reason or "Nothing holds it back.")
        )


def _start(pool: PoolView, target: autoscale.Target, snapshot: Snapshot, draft: _Draft, now: float) -> str:
    """Decides one replica; answers why it could not, or ""."""
    inputs = {
        "queued": pool.queued,
        "running": pool.running,
        "serving": target.serving,
        "wanted": target.wanted,
    }
    spot = place(pool, snapshot, draft.taken, draft.drafts, now)
    if isinstance(spot, InPilot):
        draft.taken.append(
            ReplicaView(f"new:{pool.name}", pool.name, spot.pilot, "wanted", spot.gpu_indices, pool.mem_mb)
        )
        draft.decisions.append(
            PlaceReplica(
                pool=pool.name,
                pilot=spot.pilot,
                gpu_indices=spot.gpu_indices,
                reason=f"{_sentence(target.why)}, and a job that we already have holds free GPUs.",
                inputs={**inputs},
            )
        )
        return ""
    if isinstance(spot, RoomSoon):
        return ""
    if not snapshot.slurm_fresh:
        return f"Slurm does not answer; nothing is started until it does. {snapshot.slurm_error}".strip()
    if isinstance(spot, NewPilot):
        profile = next(p for p in snapshot.profiles if p.name == spot.profile)
        draft.drafts.append(Draft(spot.profile, profile.gpus - pool.gpus, profile.mem_mb - pool.mem_mb))
        draft.decisions.append(
            LaunchPilot(
                pool=pool.name,
                profile=spot.profile,
                gpu_indices=spot.gpu_indices,
                reason=f"{_sentence(target.why)}, and no job of ours has room: a new one is submitted.",
                inputs={**inputs},
            )
        )
        return ""
    return _switch(pool, spot, snapshot, draft, now)


def _switch(pool: PoolView, spot: Nowhere, snapshot: Snapshot, draft: _Draft, now: float) -> str:
    replica = switching.victim(pool, snapshot, draft.leaving, now) if spot.full else None
    if replica is None:
        return spot.reason
    draft.leaving.add(replica.id)
    draft.decisions.append(
        DrainReplica(
            pool=replica.pool,
            pilot=replica.pilot,
            replica=replica.id,
            reason=f"{replica.pool} is idle, and {pool.name} has work and nowhere else to run.",
            inputs={"idle_s": round(now - (replica.idle_since or now), 1), "queued": pool.queued},
        )
    )
    return spot.reason


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:]
