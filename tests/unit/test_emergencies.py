"""What a live job's listing, or its agent's silence, forces."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.observe.emergencies import Allowance, LiveJob, emergency
from scheduler.policy.decisions import CancelPilot, DrainPilot
from scheduler.slurm.protocol import JobInfo

NOW = 1_000_000.0
ALLOWANCE = Allowance(register_s=300, silent_cancel_s=600)
JOB = JobInfo(7, "berth-x-p", "RUNNING", "None", "gpu", "n1", None, NOW - 100, NOW + 60)
UP = LiveJob("p", "up", True, NOW + 14_000, JOB, 0.0)


def ends(at: float) -> JobInfo:
    return replace(JOB, ends_at=at)


def test_an_end_that_moved_near_drains() -> None:
    decision = emergency(UP, ALLOWANCE, NOW)
    assert isinstance(decision, DrainPilot)
    assert "60 s ahead" in decision.reason


def test_an_end_that_did_not_move_or_lies_far_ahead_is_left_to_the_hand_over() -> None:
    assert emergency(replace(UP, ends_at=NOW + 61), ALLOWANCE, NOW) is None
    assert emergency(replace(UP, ends_at=None), ALLOWANCE, NOW) is None
    assert emergency(replace(UP, job=ends(NOW + 7200)), ALLOWANCE, NOW) is None
    assert emergency(replace(UP, ends_at=NOW + 60, job=ends(NOW + 7200)), ALLOWANCE, NOW) is None


def test_a_pilot_that_drains_already_is_not_drained_again() -> None:
    assert emergency(replace(UP, state="draining"), ALLOWANCE, NOW) is None


def test_a_job_whose_agent_never_spoke_is_cancelled_and_counted() -> None:
    mute = replace(UP, state="pending", registered=False, silent_s=299.0)
    assert emergency(mute, ALLOWANCE, NOW) is None
    decision = emergency(replace(mute, silent_s=300.0), ALLOWANCE, NOW)
    assert isinstance(decision, CancelPilot)
    assert decision.failed


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("http://berth:8000", "Nodes have to reach the portal at http://berth:8000"),
        ("http://127.0.0.1:8000", "which is each node itself: set BERTH_PORTAL_URL"),
        ("http://localhost:8000", "which is each node itself"),
        ("http://[::1]:8000", "which is each node itself"),
    ],
)
def test_why_an_agent_is_mute_begins_with_where_it_was_told_the_portal_is(url: str, words: str) -> None:
    mute = replace(UP, state="pending", registered=False, silent_s=300.0, portal_url=url)
    decision = emergency(mute, ALLOWANCE, NOW)
    assert isinstance(decision, CancelPilot)
    assert words in decision.reason


def test_a_job_whose_agent_fell_silent_is_cancelled_whatever_its_state() -> None:
    for state in ("up", "draining"):
        silent = replace(UP, state=state, silent_s=600.0)
        assert isinstance(emergency(silent, ALLOWANCE, NOW), CancelPilot)
        # Once Slurm ends it, nothing more is asked.
        assert emergency(replace(silent, job=replace(JOB, state="COMPLETING")), ALLOWANCE, NOW) is None
