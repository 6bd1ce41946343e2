"""A planned pilot → a job that Slurm has taken, an intent that stays because nobody answered, or an end with its reason.

Separate from the carrying out of decisions, because an intent of an earlier tick is submitted in the same way.
"""

from __future__ import annotations

import logging
from uuid import UUID

from portal.catalog.models import Pool
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot
from portal.fleet.slurm_words import refused_for_good
from portal.fleet.states import PilotState
from scheduler.act import endings
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.act.holds import latch_profile
from scheduler.act.notes import no_answer
from scheduler.jobs.spec import spec_of
from scheduler.observe import bad_nodes
from scheduler.observe.pool_views import catalogued, profile_view
from scheduler.observe.ways import served
from scheduler.policy.consequences import ResubmitPilot
from scheduler.policy.decisions import HoldProfile
from scheduler.policy.profiles import could_host
from scheduler.slurm.patience import LeftAlone
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.render import BadDirective, render
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


def submit(actor: Actor, pilot_id: UUID) -> bool:
    """Move planned → submitted, or end the pilot when Slurm refuses its job. On silence the intent stays: the job may
    exist. Return whether it is submitted."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=pilot_id)
    if pilot.state != PilotState.PLANNED:
        return False
    way = actor.site.way_of(pilot.profile)
    try:
        job_id = _sbatch(actor, pilot, way)
    except (NoAnswer, NotOffered) as error:
        logger.warning("pilot %s: %s", pilot_id, error)
        no_answer(actor, way, str(error))
        actor.site.unsure(way, actor.clock())
        if isinstance(error, LeftAlone):
            actor.site.leave(way, actor.clock() + actor.config.slurm_timeout_s)
        return False
    except Rejected as error:
        reason = f"Slurm refused the job: {error}"
        held = refused_for_good(error.reason) and _hold_profile(actor, pilot, reason)
        endings.end(actor, pilot_id, reason, failed=not held)
        return False
    except BadDirective as error:
        reason = f"Its profile: {error}"
        held = _hold_profile(actor, pilot, reason)
        endings.end(actor, pilot_id, reason, failed=not held)
        return False
    if not endings.make_room(actor, pilot, job_id):
        _give_up(actor, job_id, way)
        return False
    with moving() as cur:
        submitted = fleet.submitted(cur, pilot_id, job_id, actor.now())
    if not submitted:
        logger.warning("job %d: pilot %s has moved on; the orphan rule deals with it", job_id, pilot_id)
    return submitted


def resubmit(actor: Actor, decision: ResubmitPilot) -> bool:
    """Submit a planned pilot's job once more, unless a command has paused its cluster or its way fell silent
    meanwhile."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=decision.pilot)
    if actor.site.paused(pilot.cluster) or actor.site.error(actor.site.way_of(pilot.profile)):
        return False
    if not submit(actor, pilot.pk):
        return False
    write_decided(decision, actor.now(), pilot=pilot.pk)
    return True


def _give_up(actor: Actor, job_id: int, way: Way) -> None:
    """Cancel a job that may not have its number; what does not hear of it now is an unknown job of the next listings."""
    try:
        actor.client_for(way).cancel([job_id])
    except (NoAnswer, NotOffered) as error:
        logger.warning("scancel %d: %s", job_id, error)


def _sbatch(actor: Actor, pilot: Pilot, way: Way) -> int:
    """Submit it without the bad nodes; with them where Slurm says that nothing is left: a bad node is a suspicion, and
    no reason to run nowhere. Return the number of the job. Raises NoAnswer, Rejected, BadDirective."""
    client = actor.client_for(way)
    if left_out := bad_nodes.excluded(pilot.cluster, actor.clock()):
        spec = spec_of(pilot, actor.config, left_out)
        try:
            return client.submit(render(spec), spec)
        except Rejected as error:
            logger.warning("pilot %s without %s: %s", pilot.pk, spec.exclude, error)
    spec = spec_of(pilot, actor.config)
    return client.submit(render(spec), spec)


def _hold_profile(actor: Actor, pilot: Pilot, reason: str) -> bool:
    """Latch its profile, if whatever waits for this job may run under another one: then the profile
    is to blame, and not the model. Return False where there is no other."""
    others = served(actor.config).filter(enabled=True).exclude(pk=pilot.profile_id)
    open_ = others.exclude(state__latched_at__isnull=False).select_related("project")
    offered = [profile_view(profile) for profile in open_]
    waiting = catalogued(Pool.objects.filter(replicas__pilot=pilot.pk).distinct())
    if not all(any(could_host(pool, profile) for profile in offered) for pool in waiting):
        return False
    decision = HoldProfile(profile=pilot.profile.name, reason=reason)
    latch_profile(actor, pilot.profile, decision, pilot.pk)
    return True
