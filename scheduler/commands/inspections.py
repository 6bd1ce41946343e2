"""The command inspect: a pilot's agent looks at a model's folder, and the command waits for what it found.

Separate from the other commands because it goes on over many ticks, and because it may want a job of its own: file
systems are seen as the jobs of one profile see them, so only a pilot of that profile is asked. What was chosen stands
in the candidate's row, so a restart of the loop begins nothing twice.
"""

from __future__ import annotations

from uuid import UUID

from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Candidate, Command, Pilot
from portal.fleet.slurm_words import meaning
from portal.fleet.states import ON_ITS_WAY, PilotState
from portal.fleet.times import span
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write
from scheduler.act.launches import obstacle
from scheduler.act.submission import submit
from scheduler.commands.outcomes import Failed, Later, Refused
from scheduler.jobs.pilots import intent

LOOK_PATIENCE_S = 120.0  # for the agent; an agent of an earlier release never answers
MOST_JOBS = 2  # that may end under it before it is given up
LIVE = (PilotState.UP, *ON_ITS_WAY)


def inspect(actor: Actor, command: Command) -> str:
    """Return what was found. Raises Later while that is not known, Failed, Refused."""
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
        listed = meaning(pilot.slurm_state, pilot.slurm_reason)
        if pilot.slurm_state == "PENDING" and listed.phase == "hopeless":
            raise Failed(
                f"Slurm will never start the job under profile {pilot.profile.name}: {pilot.slurm_reason}."
            )
        raise Later(f"Waiting for job {pilot.job_id or ''} of profile {candidate.profile.name} to start.")
    if candidate.jobs >= MOST_JOBS:
        ended = f" The last one: {pilot.end_reason}" if pilot is not None else ""
        raise Failed(f"{candidate.jobs} jobs ended before one could look at the folder.{ended}")
    _choose(actor, command, candidate)


def _choose(actor: Actor, command: Command, candidate: Candidate) -> None:
    """Choose a pilot that is there, or launch one. Raises Later, as it has not looked yet, or Refused."""
    there = Pilot.objects.filter(
        profile=candidate.profile, cluster=candidate.profile.cluster, state__in=LIVE, said_ending=""
    )
    running = there.filter(state=PilotState.UP).order_by("-slurm_end_at").first()
    pilot = running or there.order_by("planned_at").first()
    if pilot is not None:
        _chosen(actor, candidate, pilot.pk)
        raise Later("A job is there: it is asked.")
    profile = candidate.profile
    if (why := obstacle(actor, profile, profile.gpus)) is not None:
        raise (Later if why.passes else Refused)(why.reason)
    planned = intent(actor.config, profile)
    wants = f"{command.asked_by} wants to register {candidate.name}"
    reason = f"{wants}, and no job of profile {profile.name} is there to look at its folder."
    with moving() as cur:
        fleet.plan(cur, planned, actor.now())
        _chosen(actor, candidate, planned.id)
        inputs = {"command": command.pk}
        write(DecisionKind.LAUNCH, reason, actor.now(), pilot=planned.id, inputs=inputs)
    submit(actor, planned.id)
    raise Later(f"A job of profile {profile.name} was asked for, to look at the folder.")


def _chosen(actor: Actor, candidate: Candidate, pilot: UUID) -> None:
    Candidate.objects.filter(pk=candidate.pk, found_at=None).update(
        pilot=pilot, asked_at=actor.now(), jobs=candidate.jobs + 1
    )


def _give_up(actor: Actor, candidate: Candidate, why: str) -> None:
    Candidate.objects.filter(pk=candidate.pk, found_at=None).update(error=why, found_at=actor.now())
