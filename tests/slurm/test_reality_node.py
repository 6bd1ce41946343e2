"""A node is lost, or somebody else cancels our job: the work goes back and runs elsewhere."""

from __future__ import annotations

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


def running(whole: Whole) -> tuple[Scenario, int]:
    """Start four requests that run and two that wait; return their job, too."""
    scenario = Scenario(whole, cap=4, tokens_per_s=1)
    scenario.post(6)
    job = scenario.running(4)
    whole.tune(load_s=0, tokens_per_s=100)
    return scenario, job


def over(whole: Whole, job: int) -> None:
    """Wait until a job is over: its successor may have answered before Slurm, and we after it, say that it
    has ended."""
    whole.until(lambda: whole.pilot(job)["state"] == "ended", what=f"the end of job {job}")


def test_a_lost_nodes_work_runs_on_another_node(whole: Whole) -> None:
    scenario, job = running(whole)
    node = whole.pilot(job)["node"]
    whole.slurm.node_down(node)
    try:
        scenario.answered()
        over(whole, job)
        assert whole.pilot(job)["end_reason"].startswith(f"Job {job}: its node failed")
        [other] = whole.live_jobs() - {job}
        assert whole.pilot(other)["node"] not in ("", node)
        assert whole.failures() == 0
    finally:
        whole.slurm.node_up(node)
    begun, lost = ("launch", "waiting for echo"), ("ended", f"Job {job}: its node failed")
    if scenario.story()[1][0] == "ended":
        scenario.told(begun, lost, ("launch", "6 requests waiting for echo"))
    else:  # the job was seen COMPLETING first
        scenario.told(begun, ("launch", "but the job that served echo is over"), lost)
    [told] = [reason for kind, reason in scenario.story() if kind == "ended"]
    assert told.endswith(f"It hosted echo on {node}. 4 requests go back to the queue, with the old place.")


def test_a_job_that_somebody_else_cancelled_is_replaced(whole: Whole) -> None:
    scenario, job = running(whole)
    whole.slurm.run("scancel", str(job))
    scenario.answered()
    over(whole, job)
    assert "cancelled" in whole.pilot(job)["end_reason"]
    assert whole.failures() == 0
    assert len(whole.live_jobs() - {job}) == 1
    scenario.replaced("cancelled")
