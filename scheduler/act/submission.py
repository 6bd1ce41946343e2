"""A planned pilot → a job that Slurm has taken, an intent that stays because nobody answered, or an end with its reason.

Separate from the carrying out of decisions, because an intent of an earlier tick is submitted in the same way.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from portal.catalog.models import Pool
from portal.config import Config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot, ProfileState
from portal.fleet.slurm_words import refused_for_good
from portal.fleet.states import PilotState
from scheduler.act import endings
from scheduler.act.decision_rows import tell
from scheduler.act.job_spec import spec_of
from scheduler.observe import bad_nodes
from scheduler.observe.listing import ClientFor
from scheduler.observe.pool_views import catalogued, profile_view
from scheduler.observe.ways import Site, served
from scheduler.policy.profiles import serves
from scheduler.slurm.patience import LeftAlone
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected
from scheduler.slurm.render import BadDirective, render
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Actor:
    """What acting needs. `clock` gives UNIX seconds."""

    site: Site
    client_for: ClientFor
    config: Config
    clock: Callable[[], float]

    def now(self) -> datetime:
        return datetime.fromtimestamp(self.clock(), UTC)


def submit(actor: Actor, pilot_id: UUID) -> bool:
    """planned → submitted, or ended when Slurm refuses it. On silence the intent stays: the job may exist."""
    pilot = Pilot.objects.select_related("profile__access").get(pk=pilot_id)
    if pilot.state != PilotState.PLANNED:
        return False
    way = actor.site.way_of(pilot.profile)
    try:
        job_id = _sbatch(actor, pilot, way)
    except (NoAnswer, NotOffered) as error:
        logger.warning("pilot %s: %s", pilot_id, error)
        actor.site.silence(way, str(error), actor.clock())
        actor.site.unsure(way, actor.clock())
        if isinstance(error, LeftAlone):
            actor.site.leave(way, actor.clock() + actor.config.slurm_timeout_s)
        return False
    except Rejected as error:
        said = f"Slurm refused the job: {error}"
        held = refused_for_good(error.reason) and _hold_profile(actor, pilot, said)
        end(actor, pilot_id, said, failed=not held)
        return False
    except BadDirective as error:
        said = f"Its profile: {error}"
        held = _hold_profile(actor, pilot, said)
        end(actor, pilot_id, said, failed=not held)
        return False
    room = endings.make_room(pilot, job_id, actor.site, actor.clock())
    if not room.taken:
        _give_up(actor, job_id, way)
        endings.clean_up(room.ended, actor.site, actor.client_for, actor.config, actor.clock())
        return False
    with moving() as cur:
        taken = fleet.submitted(cur, pilot_id, job_id, actor.now())
    endings.clean_up(room.ended, actor.site, actor.client_for, actor.config, actor.clock())
    if not taken:
        logger.warning("job %d: pilot %s has moved on; the orphan rule deals with it", job_id, pilot_id)
    return taken


def end(actor: Actor, pilot: UUID, reason: str, *, failed: bool) -> None:
    """Of a pilot whose job never ran."""
    ended = endings.end([pilot], reason, actor.clock(), failed=failed)
    endings.clean_up(ended, actor.site, actor.client_for, actor.config, actor.clock())


def _give_up(actor: Actor, job_id: int, way: Way) -> None:
    """Cancel a job that may not have its number; what does not hear of it now is an unknown job of the next listings."""
    try:
        actor.client_for(way).cancel([job_id])
    except (NoAnswer, NotOffered) as error:
        logger.warning("scancel %d: %s", job_id, error)


def _sbatch(actor: Actor, pilot: Pilot, way: Way) -> int:
    """Without the bad nodes; with them where Slurm says that nothing is left: a bad node is a suspicion, and no reason
    to run nowhere. Raises NoAnswer, Rejected, BadDirective."""
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
    """Nothing more is submitted under it, if whatever waits for this job may run under another one: then the profile
    is to blame, and not the model. False where there is no other."""
    others = served(actor.config).filter(enabled=True).exclude(pk=pilot.profile_id)
    open_ = others.exclude(state__latched_at__isnull=False).select_related("project")
    offered = [profile_view(profile) for profile in open_]
    waiting = catalogued(Pool.objects.filter(replicas__pilot=pilot.pk).distinct())
    if not all(any(serves(profile, pool) for profile in offered) for pool in waiting):
        return False
    with moving():
        held = {"latched_at": actor.now(), "reason": reason}
        ProfileState.objects.update_or_create(profile=pilot.profile, defaults=held)
        tell("hold_profile", reason, actor.clock(), pilot=pilot.pk)
    return True
