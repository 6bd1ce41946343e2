"""What Slurm listed and what a pilot reported → a verdict on it, and what follows from that. Pure.

One pilot at a time, so that each rule of invariants 1 and 2 can be read and tested alone. `scheduler.act` carries out
what follows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gpuworker.wire import REFUSED
from portal.fleet.slurm_words import meaning
from portal.fleet.states import PilotState
from scheduler.observe.listing import OurJob
from scheduler.observe.reports import Heard
from scheduler.policy.consequences import AdoptJob, EndPilot
from scheduler.slurm.protocol import UsageInfo

# Ends that say nothing against the model that was being started (invariant 6).
BLAMELESS = frozenset({"PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REVOKED"})

# How the job of a pilot ends that was told to go.
_AS_ASKED = frozenset({"COMPLETED", "CANCELLED"})

# What agents call their ends, where that is no sentence for a scientist.
_ENDINGS = {
    "walltime": "its time was nearly over",
    "preempted": "Slurm told it to go, for a job of higher priority or because somebody cancelled it",
    "node lost": "one of its nodes was lost, and a model over several nodes needs all of them",
    "portal silent": "it had heard nothing from the portal for long",
}


@dataclass(frozen=True, slots=True)
class PilotFacts:
    """A live pilot's row, as far as the judgement needs it. Times are UNIX seconds."""

    id: str
    state: str
    planned_at: float
    submitted_at: float | None
    job_id: int | None
    agent_job_id: int | None
    slurm_seen_at: float | None
    said_ending: str


@dataclass(frozen=True, slots=True)
class Patience:
    """The ages up to which an agent's last report counts against a listing, in seconds."""

    alive_s: float  # a report within it outweighs a listing that lacks the job
    quiet_s: float  # a report within it outweighs a listing that says the job has ended


@dataclass(frozen=True, slots=True)
class Verdict:
    """A judgement of one pilot: what is to be done with it. Several may apply at once."""

    adopt: int | None = None  # this job is the pilot's
    job: OurJob | None = None  # what Slurm says of it
    surplus: tuple[OurJob, ...] = ()  # further live jobs of the same name
    resubmit: bool = False
    ended: str = ""  # why it has ended, in words
    failed: bool = False  # counts against the models that it was starting
    vanished: bool = False  # it ended because Slurm does not list it: accounting may know why


def judge(
    pilot: PilotFacts,
    jobs: Sequence[OurJob],
    heard: Heard | None,
    redis_answers: bool,
    answered_at: float | None,
    patience: Patience,
    now: float,
) -> Verdict:
    """Return the verdict on one pilot. `jobs`: those of its name in the last listing, which was asked for at
    `answered_at`.

    1. The agent said why it ends, or why it cannot serve → ended. 2. Never heard of Slurm → nothing, but an agent
    that spoke names its job itself. 3. The pilot's job is the one its row or its agent names, else the lowest live
    id; other live ones are surplus. 4. Not listed: a planned pilot is resubmitted if the listing is newer than the
    intent; another has ended if neither Slurm nor its agent was heard of it for alive_s. Redis' silence keeps it, too.
    5. Listed as ended, and no report since → ended.
    """
    # 1.
    if pilot.said_ending and pilot.state != PilotState.PLANNED:
        refused = pilot.said_ending.startswith(REFUSED)
        return Verdict(ended=_last_words(pilot, jobs), failed=refused)
    # 2.
    registered = pilot.agent_job_id if pilot.state == PilotState.PLANNED else None
    if answered_at is None:
        return Verdict(adopt=registered)
    # 3.
    silent_s = now - heard.received_at if heard is not None else float("inf")
    live = [job for job in jobs if not is_over(job)]
    own = _own(pilot, jobs, live)
    if own is None and registered is not None:
        return Verdict(adopt=registered)
    # 4.
    if own is None:
        return _unlisted(pilot, silent_s, redis_answers, answered_at, patience, now)
    surplus = tuple(job for job in live if job.info.job_id != own.info.job_id)
    adopt = own.info.job_id if pilot.state == PilotState.PLANNED else None
    # 5.
    listed = meaning(own.info.state, own.info.reason)
    if listed.phase == "ended" and (
        silent_s > patience.quiet_s or (heard and heard.job_id != own.info.job_id)
    ):
        reason = f"Job {own.info.job_id}: {listed.text}."
        return Verdict(adopt, own, surplus, ended=reason, failed=own.info.state not in BLAMELESS)
    return Verdict(adopt, own, surplus)


def adoption(pilot: str, verdict: Verdict) -> AdoptJob | None:
    """Return that a planned pilot's job was found, if it was."""
    if verdict.adopt is None:
        return None
    reason = f"Job {verdict.adopt} bears its name: sbatch did not say so, but this is what it asked for."
    return AdoptJob(pilot=pilot, job_id=verdict.adopt, reason=reason, inputs={"job": verdict.adopt})


def ending(pilot: PilotFacts, verdict: Verdict, usage: UsageInfo | None) -> EndPilot | None:
    """Return the end of a pilot, if its verdict is one. `usage`: what accounting says of a job that is listed no more."""
    if not verdict.ended:
        return None
    reason, failed = verdict.ended, verdict.failed
    if usage is not None:
        end = meaning(usage.state, "None")
        if end.phase == "ended":
            reason = f"Job {usage.job_id} is gone; accounting says: {end.text}."
            failed = usage.state not in BLAMELESS
    return EndPilot(pilot=pilot.id, failed=failed, unasked=not _asked(pilot, verdict), reason=reason)


def _asked(pilot: PilotFacts, verdict: Verdict) -> bool:
    """Return whether a decision of ours let it go, and nothing else came between."""
    if pilot.state != PilotState.DRAINING:
        return False
    return bool(pilot.said_ending) or verdict.job is None or verdict.job.info.state in _AS_ASKED


def _last_words(pilot: PilotFacts, jobs: Sequence[OurJob]) -> str:
    """Return why it ended, by its agent; a signal says less than Slurm, where that has spoken already."""
    own = _own(pilot, jobs, ())
    if pilot.said_ending == "preempted" and own is not None and is_over(own):
        return f"Job {own.info.job_id}: {meaning(own.info.state, own.info.reason).text}."
    if pilot.said_ending.startswith(REFUSED):
        return f"Job {pilot.job_id} could not serve: {pilot.said_ending.removeprefix(REFUSED)}"
    return f"Its agent ended it: {_ENDINGS.get(pilot.said_ending, pilot.said_ending)}."


def _own(pilot: PilotFacts, jobs: Sequence[OurJob], live: Sequence[OurJob]) -> OurJob | None:
    named = pilot.job_id or pilot.agent_job_id
    if named is not None:
        return next((job for job in jobs if job.info.job_id == named), None)
    return live[0] if live else (jobs[0] if jobs else None)


def _unlisted(
    pilot: PilotFacts,
    silent_s: float,
    redis_answers: bool,
    answered_at: float,
    patience: Patience,
    now: float,
) -> Verdict:
    if pilot.state == PilotState.PLANNED:
        return Verdict(resubmit=answered_at > pilot.planned_at)
    last_seen = max(pilot.slurm_seen_at or 0.0, pilot.submitted_at or 0.0)
    if answered_at <= last_seen or now - last_seen < patience.alive_s:
        return Verdict()
    if not redis_answers or silent_s <= patience.alive_s:
        return Verdict()
    reason = f"Slurm no longer knows job {pilot.job_id}, and it reports nothing."
    return Verdict(ended=reason, failed=True, vanished=True)


def is_over(job: OurJob) -> bool:
    """Return whether Slurm lists the job as one that has ended."""
    return meaning(job.info.state, job.info.reason).phase == "ended"
