"""May a job be launched under a profile now, and its launch: the intent first, then sbatch (invariant 2)."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from uuid import UUID

from portal.catalog.models import Pool, Profile
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Pilot, ProfileState
from portal.fleet.states import PilotState
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.act.replicas import new_replica, no_model
from scheduler.act.submission import submit
from scheduler.jobs.pilots import intent
from scheduler.policy.decisions import LaunchPilot

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Obstacle:
    """A reason why no job is launched under a profile. `passes`: it goes by itself or by a fleet's resume; else a
    person has to change the profile."""

    reason: str
    passes: bool


def obstacle(actor: Actor, profile: Profile, gpus: int, *, insist: bool = False) -> Obstacle | None:
    """Return what keeps a job with so many GPUs from being launched under the profile now; None where nothing does.

    1. The profile is disabled, or no way of this site leads to its cluster. 2. The way is silent. 3. The cluster is
    paused. 4. The profile is latched. 5. Its jobs are as many as it may have. 6. All GPUs that Berth may have are in use.
    `insist`: a person tries a model out, which neither pause nor latch hinders.
    """
    way = actor.site.way_of(profile)
    # 1.
    if not profile.enabled or way not in actor.site.ways:
        return Obstacle(f"No jobs are launched under profile {profile.name}.", passes=False)
    # 2.
    if error := actor.site.error(way):
        return Obstacle(f"{actor.site.label(way)} does not answer: {error}", passes=True)
    # 3.
    if actor.site.paused(profile.cluster) and not insist:
        where = f"The fleet is paused in cluster {profile.cluster}"
        return Obstacle(f"{where}: no job is launched before an operator resumes it.", passes=True)
    # 4.
    latched = ProfileState.objects.filter(profile=profile, latched_at__isnull=False).first()
    if latched is not None and not insist:
        return Obstacle(f"Profile {profile.name} is held: {latched.reason}", passes=False)
    # 5.
    live = list(Pilot.objects.exclude(state=PilotState.ENDED).values_list("profile_id", "gpus"))
    if sum(of == profile.pk for of, _ in live) >= profile.max_pilots:
        return Obstacle(f"Profile {profile.name} may have no more jobs now.", passes=True)
    # 6.
    used = sum(n for _, n in live)
    if actor.config.max_gpus and gpus and used + gpus > actor.config.max_gpus:
        return Obstacle("All GPUs that Berth may have are in use.", passes=True)
    return None


def launch(actor: Actor, decision: LaunchPilot, *, insist: bool) -> bool:
    """Plan a pilot with its first replica and submit its job. Return False where something came between, the pool has no
    model, or Slurm did not answer or refused."""
    pool = Pool.objects.select_related("environment", "base").get(pk=decision.pool)
    profile = Profile.objects.select_related("access").get(name=decision.profile)
    if (why := obstacle(actor, profile, profile.gpus * pool.nodes, insist=insist)) is not None:
        logger.info("launch for %s was overtaken: %s", pool.name, why.reason)
        return False
    pilot = intent(
        actor.config,
        profile,
        nodes=pool.nodes,
        limit_s=decision.limit_s,
        replaces=UUID(decision.replaces) if decision.replaces else None,
    )
    replica = new_replica(pool, pilot.id, decision.gpu_indices)
    if replica is None:
        return no_model(pool)
    with moving() as cur:
        fleet.plan(cur, pilot, actor.now())
        fleet.want(cur, replica, actor.now())
        write_decided(decision, actor.now(), pool=pool.name, pilot=pilot.id, replica=replica.id)
    return submit(actor, pilot.id)
