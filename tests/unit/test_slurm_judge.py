"""What the listing and the reports together say of one pilot (invariants 1 and 2), rule by rule."""

from __future__ import annotations

from dataclasses import replace

from scheduler.observe.listing import OurJob
from scheduler.observe.reports import Heard
from scheduler.observe.verdicts import Patience, PilotFacts, Verdict, judge
from scheduler.slurm.protocol import JobInfo
from scheduler.slurm.way import Way

NOW = 1_000_000.0
PATIENCE = Patience(alive_s=30, quiet_s=6)
PLANNED = PilotFacts("p", "planned", NOW - 100, None, None, None, None, "")
UP = PilotFacts("p", "up", NOW - 100, NOW - 99, 7, 7, NOW - 50, "")


def job(job_id: int = 7, state: str = "RUNNING", reason: str = "None") -> OurJob:
    return OurJob(JobInfo(job_id, "berth-x-p", state, reason, "gpu", "n1", None, None, None), "p", Way())


def said(age_s: float, job_id: int = 7) -> Heard:
    return Heard(NOW - age_s, job_id, {})


def ask(
    pilot: PilotFacts,
    *jobs: OurJob,
    heard: Heard | None = None,
    redis: bool = True,
    answered_at: float | None = NOW,
) -> Verdict:
    return judge(pilot, jobs, heard, redis, answered_at, PATIENCE, NOW)


def test_before_slurm_was_ever_heard_nothing_follows() -> None:
    assert ask(UP, answered_at=None) == ask(PLANNED, answered_at=None) == Verdict()


def test_an_intent_is_adopted_by_name_or_submitted_again_or_left_alone() -> None:
    assert ask(PLANNED, job(9), job(8)).adopt in (8, 9)
    assert ask(PLANNED, job(8), job(9)) == Verdict(adopt=8, job=job(8), surplus=(job(9),))
    assert ask(PLANNED).resubmit
    assert not ask(PLANNED, answered_at=PLANNED.planned_at).resubmit


def test_a_live_job_is_preferred_to_one_of_the_same_name_that_has_ended() -> None:
    assert ask(PLANNED, job(8, "CANCELLED"), job(9)).adopt == 9


def test_the_job_that_registered_is_kept_even_if_it_is_not_the_lower() -> None:
    verdict = ask(replace(PLANNED, agent_job_id=9), job(8), job(9))
    assert (verdict.adopt, verdict.surplus) == (9, (job(8),))


def test_a_listed_end_counts_once_the_agent_is_quiet() -> None:
    ended = job(state="FAILED", reason="NonZeroExitCode")
    assert ask(UP, ended, heard=said(5)).ended == ""
    assert ask(UP, ended, heard=said(7)).ended == "Job 7: its program failed (NonZeroExitCode)."
    assert ask(UP, ended).failed
    assert not ask(UP, job(state="PREEMPTED")).failed
    assert ask(UP, ended, heard=said(1, job_id=6)).ended  # another job's words


def test_an_unlisted_job_has_ended_only_when_every_witness_agrees() -> None:
    assert ask(UP).ended
    assert not ask(UP, heard=said(29)).ended
    assert not ask(UP, redis=False).ended
    assert not ask(replace(UP, slurm_seen_at=NOW - 29)).ended
    assert not ask(replace(UP, submitted_at=NOW - 1, slurm_seen_at=None)).ended
    assert not ask(UP, answered_at=NOW - 60).ended  # the listing is older than the last sighting


def test_an_agent_that_says_why_it_ends_is_believed_at_once() -> None:
    assert ask(replace(UP, said_ending="drained"), job()).ended == "Its agent ended it: drained."
    said = ask(replace(UP, said_ending="walltime"), job()).ended
    assert said == "Its agent ended it: its time was nearly over."


def test_a_job_that_could_not_serve_is_a_failed_launch_with_its_own_words() -> None:
    found = ask(replace(UP, said_ending="refused: it has 1 of 2 GPUs."), job())
    assert (found.ended, found.failed) == ("Job 7 could not serve: it has 1 of 2 GPUs.", True)
    assert not ask(replace(UP, said_ending="drained"), job()).failed


def test_a_signal_is_preemption_or_a_cancellation_until_slurm_says_which() -> None:
    told = replace(UP, said_ending="preempted")
    said = "Its agent ended it: Slurm told it to go, for a job of higher priority or because somebody cancelled it."
    assert ask(told, job()).ended == said
    assert ask(told, job(state="CANCELLED")).ended == "Job 7: it was cancelled."


def test_a_state_of_tomorrow_is_no_end() -> None:
    assert not ask(UP, job(state="HIBERNATING")).ended
