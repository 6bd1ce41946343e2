"""Decisions → rows, then deeds. The intent is committed before Slurm is asked (invariant 2); what a decision
moves and the row that says why stand in one transaction.
"""

from __future__ import annotations

import logging
import uuid
from uuid import UUID

from django.db import IntegrityError

from portal.catalog.models import Model, Pool, Profile
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Decision as DecisionRow
from portal.fleet.models import Pilot, PoolState, ProfileState
from portal.fleet.states import ON_ITS_WAY, PilotState
from scheduler.act import refusals
from scheduler.act.job_spec import job_name
from scheduler.act.submission import Actor, end, submit
from scheduler.moments import moment
from scheduler.policy.decisions import (
    CancelPilot,
    Decision,
    DrainPilot,
    DrainReplica,
    HoldPool,
    HoldProfile,
    LaunchPilot,
    PlaceReplica,
    StageWeights,
    WakeReplica,
)
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected

logger = logging.getLogger(__name__)


def act(actor: Actor, decisions: list[Decision]) -> None:
    for decision in decisions:
        logger.info("%s: %s", decision.kind, decision.reason)
        try:
            carry_out(actor, decision)
        except IntegrityError as error:
            # The database knows better than the snapshot, e.g. a GPU has been taken. The next tick looks again.
            logger.warning("%s was overtaken: %s", decision.kind, error)


def carry_out(actor: Actor, decision: Decision, *, insist: bool = False) -> bool:
    """False when it came too late, or Slurm did not answer or refused. `insist`: ask for what it refused lately, too."""
    match decision:
        case LaunchPilot():
            return _launch(actor, decision)
        case PlaceReplica():
            return _place(actor, decision)
        case DrainReplica():
            return _drain_replica(actor, decision)
        case WakeReplica():
            return _wake(actor, decision)
        case StageWeights():
            return _stage(actor, decision)
        case DrainPilot():
            return _drain_pilot(actor, decision)
        case CancelPilot():
            return _cancel(actor, decision, insist)
        case HoldPool():
            return _hold(actor, decision)
        case HoldProfile():
            return _hold_profile(actor, decision)


def _launch(actor: Actor, decision: LaunchPilot) -> bool:
    pool = Pool.objects.select_related("environment").get(pk=decision.pool)
    profile = Profile.objects.select_related("access").get(name=decision.profile)
    if actor.site.error(actor.site.way_of(profile)):
        return False  # an earlier decision of this tick found its way silent
    pilot_id = uuid.uuid4()
    pilot = fleet.NewPilot(
        id=pilot_id,
        cluster=profile.cluster,
        profile_id=profile.pk,
        job_name=job_name(actor.config, str(pilot_id)),
        gpus=profile.gpus * pool.nodes,
        nodes=pool.nodes,
        mem_mb=profile.mem_mb,
        walltime_min=_walltime_min(profile, decision.limit_s),
        gpu_type=profile.gpu_type,
        replaces=UUID(decision.replaces) if decision.replaces else None,
    )
    replica = _new_replica(pool, pilot_id, decision.gpu_indices)
    if replica is None:
        return _no_model(actor, pool)
    with moving() as cur:
        fleet.plan(cur, pilot, actor.now())
        fleet.want(cur, replica, actor.now())
        _record(actor, decision, pool=pool.name, pilot=pilot_id, replica=replica.id)
    return submit(actor, pilot_id)


def _walltime_min(profile: Profile, limit_s: float | None) -> int:
    return profile.walltime_min if limit_s is None else max(1, min(profile.walltime_min, int(limit_s // 60)))


def _place(actor: Actor, decision: PlaceReplica) -> bool:
    pool = Pool.objects.select_related("environment").get(pk=decision.pool)
    pilot_id = UUID(decision.pilot)
    replica = _new_replica(pool, pilot_id, decision.gpu_indices)
    if replica is None:
        return _no_model(actor, pool)
    with moving() as cur:
        # Locked, so that no drain or end comes between the look and the insert.
        states = (*ON_ITS_WAY, PilotState.UP)
        if not Pilot.objects.select_for_update().filter(pk=pilot_id, state__in=states).exists():
            return False
        fleet.want(cur, replica, actor.now())
        _record(actor, decision, pool=pool.name, pilot=pilot_id, replica=replica.id)
    return True


def _new_replica(pool: Pool, pilot: UUID, gpu_indices: tuple[int, ...]) -> fleet.NewReplica | None:
    model = Model.objects.filter(pool=pool, enabled=True).order_by("id").first()
    if model is None:
        return None
    return fleet.NewReplica(
        id=uuid.uuid4(),
        pilot=pilot,
        pool=pool.name,
        model=model.name,
        engine=pool.environment.engine,
        gpu_indices=gpu_indices,
        mem_mb=pool.mem_mb,
        cap=pool.cap,
    )


def _no_model(actor: Actor, pool: Pool) -> bool:
    reason = "No enabled model belongs to it: nothing is started."
    PoolState.objects.update_or_create(pool=pool, defaults={"reason": reason})
    return False


def _drain_replica(actor: Actor, decision: DrainReplica) -> bool:
    with moving() as cur:
        replicas = [UUID(decision.replica)]
        moved = fleet.drain_replicas(cur, replicas, actor.now(), decision.reason, decision.sleep_level)
        if not moved:
            return False
        _record(
            actor,
            decision,
            pool=decision.pool,
            pilot=UUID(decision.pilot),
            replica=UUID(decision.replica),
        )
    return True


def _wake(actor: Actor, decision: WakeReplica) -> bool:
    replica = UUID(decision.replica)
    with moving() as cur:
        # Locked, as for a new replica: a pilot that drains wakes nothing.
        up = Pilot.objects.select_for_update().filter(pk=decision.pilot, state=PilotState.UP)
        if not up.exists():
            return False
        if not fleet.wake(cur, replica, decision.gpu_indices, actor.now(), decision.reason):
            return False
        _record(actor, decision, pool=decision.pool, pilot=UUID(decision.pilot), replica=replica)
    return True


def _stage(actor: Actor, decision: StageWeights) -> bool:
    if not Model.objects.filter(pool=decision.pool, enabled=True).exclude(path="").exists():
        return False  # nothing to copy
    pilot = UUID(decision.pilot)
    with moving() as cur:
        if not fleet.wish_staged(cur, pilot, decision.pool):
            return False
        _record(actor, decision, pool=decision.pool, pilot=pilot)
    return True


def _drain_pilot(actor: Actor, decision: DrainPilot) -> bool:
    pilot_id = UUID(decision.pilot)
    with moving() as cur:
        if not fleet.drain_pilots(cur, [pilot_id], actor.now(), decision.reason):
            return False
        _record(actor, decision, pilot=pilot_id)
    return True


def _cancel(actor: Actor, decision: CancelPilot, insist: bool) -> bool:
    """A job that runs is drained in the tables and ends when Slurm or its agent says so; one that does not
    run yet ends here, once Slurm has taken the cancellation."""
    pilot_id = UUID(decision.pilot)
    pilot = Pilot.objects.select_related("profile__access").get(pk=pilot_id)
    if pilot.state == PilotState.ENDED:
        return False
    way = actor.site.way_of(pilot.profile)
    if actor.site.error(way):
        return False  # silent since an earlier decision of this tick: the next one decides anew
    job = (pilot.cluster, pilot.job_id or 0, pilot.job_name)
    if not insist and refusals.is_held(*job, actor.clock()):
        return False
    with moving() as cur:
        _record(actor, decision, pilot=pilot_id)
        fleet.drain_pilots(cur, [pilot_id], actor.now(), decision.reason)
    if pilot.job_id is not None:
        try:
            actor.client_for(way).cancel([pilot.job_id])
        except (NoAnswer, NotOffered) as error:
            logger.warning("scancel %d: %s", pilot.job_id, error)
            actor.site.silence(way, str(error), actor.clock())
            return False
        except Rejected as error:
            refusals.note(*job, error, actor.clock(), pilot=pilot_id)
            return False
    if pilot.state in ON_ITS_WAY and pilot.registered_at is None:
        end(actor, pilot_id, decision.reason, failed=decision.failed)
    return True


def _hold(actor: Actor, decision: HoldPool) -> bool:
    hold = decision.hold
    state, _ = PoolState.objects.get_or_create(pool_id=decision.pool)
    was_latched = state.latched_at
    state.failures, state.reason = hold.failures, hold.reason
    state.retry_at = moment(hold.retry_at)
    state.latched_at = (was_latched or actor.now()) if hold.latched else None
    with moving():
        state.save(update_fields=["failures", "reason", "retry_at", "latched_at"])
        _record(actor, decision, pool=decision.pool)
    return True


def _hold_profile(actor: Actor, decision: HoldProfile) -> bool:
    profile = Profile.objects.get(name=decision.profile)
    with moving():
        ProfileState.objects.update_or_create(
            profile=profile, defaults={"latched_at": actor.now(), "reason": decision.reason}
        )
        _record(actor, decision)
    return True


def _record(
    actor: Actor,
    decision: Decision,
    *,
    pool: str = "",
    pilot: UUID | None = None,
    replica: UUID | None = None,
) -> None:
    DecisionRow.objects.create(
        at=actor.now(),
        kind=decision.kind,
        pool=pool,
        pilot=pilot,
        replica=replica,
        reason=decision.reason,
        inputs=decision.inputs,
    )
