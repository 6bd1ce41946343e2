"""Slurm gives a pilot's GPUs to a job of higher priority, with a minute's grace or with none."""

from __future__ import annotations

import pytest

from tests.slurm.scenario import Scenario, rival
from tests.slurm.whole import Whole

pytestmark = pytest.mark.slurm


def preempted(whole: Whole, partition: str) -> tuple[Scenario, int, list[str]]:
    """Preempt a job while four requests run and two wait. Return the scenario, the victim's job, the
    requests."""
    scenario = Scenario(whole, cap=4, tokens_per_s=0.5)
    with whole.profile(partition=partition):
        requests = scenario.post(6)
        victim = scenario.running(4)
        whole.tune(load_s=0, tokens_per_s=100)
        with rival(whole, whole.pilot(victim)["node"]):
            whole.until(lambda: whole.pilot(victim)["state"] == "ended", 120, "the preempted pilot's end")
            scenario.answered()
    # Neither end is the model's fault.
    assert whole.failures() == 0
    failed = "SELECT count(*) FROM fleet_replica WHERE state = 'failed' AND pilot_id = %s"
    assert whole.one(failed, whole.pilot(victim)["id"]) == 0
    return scenario, victim, requests


@pytest.mark.nightly
def test_with_a_minutes_grace_what_runs_is_finished_and_the_rest_served_elsewhere(whole: Whole) -> None:
    """Nothing but the listing says so: the signal of that moment goes to job steps, not to the batch script."""
    scenario, _, requests = preempted(whole, "grace")
    assert [whole.detail(request)["attempt"] for request in requests] == [1] * 6, "nothing was begun twice"
    scenario.told(
        ("launch", "waiting for echo, and no job of ours has room: a new one is submitted"),
        ("drain_pilot", "Slurm wants its GPUs back: it moved the job's end, which now lies"),
        ("launch", "2 requests waiting for echo"),
    )


def test_without_grace_what_runs_goes_back_at_once_and_is_served_elsewhere(whole: Whole) -> None:
    scenario, victim, requests = preempted(whole, "spare")
    assert sorted(whole.detail(request)["attempt"] for request in requests) == [1, 1, 2, 2, 2, 2]
    assert "higher priority" in whole.pilot(victim)["end_reason"]
    scenario.replaced("higher priority")
