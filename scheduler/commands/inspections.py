"""The command inspect: a pilot's agent looks at a model's folder, and the command waits for what it found.

Separate from `commands` because it goes on over many ticks, and because it may want a job of its own: file systems are
seen as the jobs of one profile see them, so only a pilot of that profile is asked. What was chosen stands in the
candidate's row, so a restart of the loop begins nothing twice.
"""

from __future__ import annotations

import uuid
from uuid import UUID

from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Candidate, Command, Pilot, ProfileState
from portal.fleet.slurm_words import meaning
from portal.fleet.states import ON_ITS_WAY, PilotState
from portal.fleet.times import span
from scheduler.act.decision_rows import tell
from scheduler.act.job_spec import job_name
from scheduler.act.submission import Actor, submit
from scheduler.commands.outcomes import Failed, Later, Refused

LOOK_PATIENCE_S = 120.0  # for the agent; an agent of an earlier release never answers
MOST_JOBS = 2  # that may end under it before it is given up
LIVE = (PilotState.UP, *ON_ITS_WAY)


def looked_at_by() -> set[UUID]:
    """Pilots that are not idle although they host nothing: a command waits for what they find."""
    waiting = Command.objects.filter(kind=Command.Kind.INSPECT, state=Command.State.PENDING)
    numbers = [args.get("candidate") for args in waiting.values_list("args", flat=True)]
    if not numbers:
        return set()
    rows = Candidate.objects.filter(pk__in=numbers, found_at=None, pilot__isnull=False)
    return {id_ for id_ in rows.values_list("pilot_id", flat=True) if id_ is not None}


def inspect(actor: Actor, command: Command) -> str:
    """What was found. Raises Later while that is not known, Failed, Refused."""
    rows = Candidate.objects.select_related("profile__access", "pilot", "project")
    candidate = rows.filter(pk=command.args.get("candidate")).first()
    if candidate is None:
        raise Refused("It is not to be registered any more.")
    if candidate.found_at is not None:
        if candidate.error:
            raise Failed(f"{candidate.name}: {candidate.error}")
        return f"The folder of {candidate.name} was looked at."
    try:
        _look(actor, command, candidate)
    except Refused as refusal:
        _give_up(actor, candidate, str(refusal))
        raise
    except Failed as failure:
        _give_up(actor, candidate, str(failure))
        raise
    raise AssertionError("_look always raises")


def _look(actor: Actor, command: Command, candidate: Candidate) -> None:
    if not candidate.project.model_roots:
        raise Refused(f"Project {candidate.project} has no model roots.")
    pilot = candidate.pilot
    if pilot is not None and pilot.state == PilotState.UP:
        since = max(filter(None, (candidate.asked_at, pilot.up_at)))
        waited_s = (actor.now() - since).total_seconds()
        if waited_s > LOOK_PATIENCE_S:
            raise Failed(f"Job {pilot.job_id} did not answer within {span(LOOK_PATIENCE_S)}.")
        raise Later(f"Job {pilot.job_id} looks at the folder.")
    if pilot is not None and pilot.state in ON_ITS_WAY:
        said = meaning(pilot.slurm_state, pilot.slurm_reason)
        if pilot.slurm_state == "PENDING" and said.phase == "hopeless":
            raise Failed(
                f"Slurm will never start the job under profile {pilot.profile.name}: {pilot.slurm_reason}."
            )
        raise Later(f"Waiting for job {pilot.job_id or ''} of profile {candidate.profile.name} to start.")
    if candidate.jobs >= MOST_JOBS:
        ended = f" The last one: {pilot.end_reason}" if pilot is not None else ""
        raise Failed(f"{candidate.jobs} jobs ended before one could look at the folder.{ended}")
    _choose(actor, command, candidate)


def _choose(actor: Actor, command: Command, candidate: Candidate) -> None:
    """A pilot that is there, or a new one. Always raises: it has not looked yet."""
    there = Pilot.objects.filter(
        profile=candidate.profile, cluster=candidate.profile.cluster, state__in=LIVE, said_ending=""
    )
    running = there.filter(state=PilotState.UP).order_by("-slurm_end_at").first()
    pilot = running or there.order_by("planned_at").first()
    if pilot is not None:
        _chosen(actor, candidate, pilot.pk)
        raise Later("A job is there: it is asked.")
    _may_launch(actor, candidate)
    profile, pilot_id = candidate.profile, uuid.uuid4()
    planned = fleet.NewPilot(
        id=pilot_id,
        cluster=profile.cluster,
        profile_id=profile.pk,
        job_name=job_name(actor.config, str(pilot_id)),
        gpus=profile.gpus,
        mem_mb=profile.mem_mb,
        walltime_min=profile.walltime_min,
        gpu_type=profile.gpu_type,
    )
    with moving() as cur:
        fleet.plan(cur, planned, actor.now())
        _chosen(actor, candidate, pilot_id)
        why = f"{command.asked_by} wants to register {candidate.name}, and no job of profile {profile.name} is there"
        tell(
            "launch",
            f"{why} to look at its folder.",
            actor.clock(),
            pilot=pilot_id,
            inputs={"command": command.pk},
        )
    submit(actor, pilot_id)
    raise Later(f"A job of profile {profile.name} was asked for, to look at the folder.")


def _may_launch(actor: Actor, candidate: Candidate) -> None:
    """Raises Later, Refused: what keeps jobs for requests from being launched keeps this one, too."""
    profile = candidate.profile
    way = actor.site.way_of(profile)
    if not profile.enabled or way not in actor.site.ways:
        raise Refused(f"No jobs are launched under profile {profile.name}.")
    if error := actor.site.error(way):
        raise Later(f"{actor.site.word(way)} does not answer: {error}")
    if actor.site.paused(profile.cluster):
        raise Later(
            f"The fleet is paused in cluster {profile.cluster}: no job is launched before an operator resumes it."
        )
    held = ProfileState.objects.filter(profile=profile, latched_at__isnull=False).first()
    if held is not None:
        raise Refused(f"Profile {profile.name} is held: {held.reason}")
    live = Pilot.objects.exclude(state=PilotState.ENDED)
    if live.filter(profile=profile).count() >= profile.max_pilots:
        raise Later(f"Profile {profile.name} may have no more jobs now.")
    gpus = sum(live.values_list("gpus", flat=True))
    if actor.config.max_gpus and profile.gpus and gpus + profile.gpus > actor.config.max_gpus:
        raise Later("All GPUs that Berth may have are in use.")


def _chosen(actor: Actor, candidate: Candidate, pilot: UUID) -> None:
    Candidate.objects.filter(pk=candidate.pk, found_at=None).update(
        pilot=pilot, asked_at=actor.now(), jobs=candidate.jobs + 1
    )


def _give_up(actor: Actor, candidate: Candidate, why: str) -> None:
    Candidate.objects.filter(pk=candidate.pk, found_at=None).update(error=why, found_at=actor.now())
