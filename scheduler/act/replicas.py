"""Decisions about replicas → moves of their rows; the agents do the rest, once they read what is wanted."""

from __future__ import annotations

import uuid
from uuid import UUID

from portal.catalog.models import Pool
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot, PoolState
from portal.fleet.states import ON_ITS_WAY, PilotState
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.policy.decisions import DrainReplica, PlaceReplica, StageWeights, WakeReplica


def place(actor: Actor, decision: PlaceReplica) -> bool:
    """Want a replica in a pilot that exists. Return False where the pilot is leaving or the pool has no model."""
    pool = Pool.objects.select_related("environment", "base").get(pk=decision.pool)
    pilot_id = UUID(decision.pilot)
    replica = new_replica(pool, pilot_id, decision.gpu_indices)
    if replica is None:
        return no_model(pool)
    with moving() as cur:
        # Locked, so that no drain or end comes between the look and the insert.
        states = (*ON_ITS_WAY, PilotState.UP)
        if not Pilot.objects.select_for_update().filter(pk=pilot_id, state__in=states).exists():
            return False
        fleet.want(cur, replica, actor.now())
        write_decided(decision, actor.now(), pool=pool.name, pilot=pilot_id, replica=replica.id)
    return True


def new_replica(pool: Pool, pilot: UUID, gpu_indices: tuple[int, ...]) -> fleet.NewReplica | None:
    """Return a replica of the pool's base on these GPUs of a pilot; None where the pool has no base that is enabled."""
    if pool.base is None or not pool.base.enabled:
        return None
    return fleet.NewReplica(
        id=uuid.uuid4(),
        pilot=pilot,
        pool=pool.name,
        model=pool.base.name,
        engine=pool.environment.engine,
        gpu_indices=gpu_indices,
        mem_mb=pool.mem_mb,
        cap=pool.cap,
    )


def no_model(pool: Pool) -> bool:
    """Write down why nothing is started for the pool. Always returns False."""
    reason = "No enabled language model belongs to it: nothing is started."
    PoolState.objects.update_or_create(pool=pool, defaults={"reason": reason})
    return False


def drain(actor: Actor, decision: DrainReplica) -> bool:
    """Take a replica out of routing. Return False where it had left already."""
    replica = UUID(decision.replica)
    with moving() as cur:
        if not fleet.drain_replicas(cur, [replica], actor.now(), decision.reason, decision.sleep_level):
            return False
        write_decided(decision, actor.now(), pool=decision.pool, pilot=UUID(decision.pilot), replica=replica)
    return True


def wake(actor: Actor, decision: WakeReplica) -> bool:
    """Give a sleeping replica its GPUs back. Return False where it, or its pilot, has moved on."""
    replica = UUID(decision.replica)
    with moving() as cur:
        # Locked, as for a new replica: a pilot that drains wakes nothing.
        up = Pilot.objects.select_for_update().filter(pk=decision.pilot, state=PilotState.UP)
        if not up.exists():
            return False
        if not fleet.wake(cur, replica, decision.gpu_indices, actor.now(), decision.reason):
            return False
        write_decided(decision, actor.now(), pool=decision.pool, pilot=UUID(decision.pilot), replica=replica)
    return True


def stage(actor: Actor, decision: StageWeights) -> bool:
    """Ask a pilot's agent to copy a pool's weights to scratch. Return False where there is nothing to copy, or the
    pilot has moved on."""
    if not Pool.objects.filter(pk=decision.pool, base__enabled=True).exclude(base__path="").exists():
        return False
    pilot = UUID(decision.pilot)
    with moving() as cur:
        if not fleet.wish_staged(cur, pilot, decision.pool):
            return False
        write_decided(decision, actor.now(), pool=decision.pool, pilot=pilot)
    return True
