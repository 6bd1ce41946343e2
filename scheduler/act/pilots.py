"""Decisions about pilots that exist → moves of their rows, and cancellations."""

from __future__ import annotations

import logging
from uuid import UUID

from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot
from portal.fleet.states import ON_ITS_WAY, PilotState
from scheduler.act import endings, refusals
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.act.notes import no_answer
from scheduler.policy.consequences import AdoptJob, EndPilot, FollowJobs
from scheduler.policy.decisions import CancelPilot, DrainPilot
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected

logger = logging.getLogger(__name__)


def adopt(actor: Actor, decision: AdoptJob) -> bool:
    """Move a planned pilot to submitted: the job was found by its name. Return False where another pilot keeps the
    number, which ends this one; its job is an unknown one from then on."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=decision.pilot)
    if not endings.make_room(actor, pilot, decision.job_id):
        return False
    with moving() as cur:
        if not fleet.submitted(cur, pilot.pk, decision.job_id, actor.now()):
            return False
        write_decided(decision, actor.now(), pilot=pilot.pk)
    return True


def follow(actor: Actor, moves: FollowJobs) -> bool:
    """Move pilots to where their jobs and agents were seen."""
    with moving() as cur:
        if moves.pending:
            fleet.pending(cur, map(UUID, moves.pending), actor.now())
        if moves.up:
            fleet.up(cur, map(UUID, moves.up), actor.now())
    return True


def end(actor: Actor, decision: EndPilot) -> bool:
    """End a pilot. Return False where it has ended already."""
    return endings.end(
        actor, UUID(decision.pilot), decision.reason, failed=decision.failed, unasked=decision.unasked
    )


def drain(actor: Actor, decision: DrainPilot) -> bool:
    """Let a running job go. Return False where its pilot is not up any more."""
    pilot_id = UUID(decision.pilot)
    with moving() as cur:
        if not fleet.drain_pilots(cur, [pilot_id], actor.now(), decision.reason):
            return False
        write_decided(decision, actor.now(), pilot=pilot_id)
    return True


def cancel(actor: Actor, decision: CancelPilot, *, insist: bool) -> bool:
    """Cancel a pilot's job. One that runs is drained in the tables and ends when Slurm or its agent says so; one that
    does not run yet ends here, once Slurm has taken the cancellation. Return False where it has ended, its way is
    silent or Slurm refuses. `insist`: ask for what Slurm refused lately, too."""
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
        write_decided(decision, actor.now(), pilot=pilot_id)
        fleet.drain_pilots(cur, [pilot_id], actor.now(), decision.reason)
    if pilot.job_id is not None:
        try:
            actor.client_for(way).cancel([pilot.job_id])
        except (NoAnswer, NotOffered) as error:
            logger.warning("scancel %d: %s", pilot.job_id, error)
            no_answer(actor, way, str(error))
            return False
        except Rejected as error:
            refusals.note(*job, error, actor.clock(), pilot=pilot_id)
            return False
    if pilot.state in ON_ITS_WAY and pilot.registered_at is None:
        endings.end(actor, pilot_id, decision.reason, failed=decision.failed)
    return True
