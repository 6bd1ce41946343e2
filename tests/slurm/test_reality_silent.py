"""A job that Slurm calls RUNNING and whose agent says nothing more: it stops counting, then it goes."""

from __future__ import annotations

import os
import signal

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


def test_a_silent_agents_work_is_served_elsewhere_and_its_job_given_up(whole: Whole) -> None:
    scenario = Scenario(whole, tokens_per_s=2)
    scenario.post(3)
    job = scenario.running(3)
    whole.tune(load_s=0, tokens_per_s=200)
    agent = whole._pid_of("gpuworker.agent")
    os.kill(agent, signal.SIGSTOP)
    try:
        whole.until(lambda: "silent" in [kind for kind, _ in scenario.story()], 120, "its notice")
        node = whole.pilot(job)["node"]
        scenario.post(2)
        scenario.ask()
        whole.until(lambda: whole.pilot(job)["state"] == "ended", 120, "the silent job's end")
    finally:
        try:
            os.kill(agent, signal.SIGCONT)
        except ProcessLookupError:
            pass  # its job was given up and Slurm killed it, as it should
    scenario.answered()
    assert job not in whole.live_jobs()
    assert len(whole.live_jobs()) == 1
    assert whole.failures() == 0
    silent = f"Its agent on {node} has been silent for"
    scenario.told(
        ("launch", "waiting for echo"),
        ("silent", silent),
        ("launch", "no job of ours has room: a new one is submitted"),
        ("cancel", silent),
        beside={
            "heard_again"
        },  # Slurm wakes it to tell it of its end, and it may find the time for a last word
    )


def test_a_flushed_redis_makes_nobody_silent(whole: Whole) -> None:
    scenario = Scenario(whole)
    scenario.ask()
    scenario.answered()
    [job] = whole.live_jobs()
    whole.kill("redis")
    whole.ticks(8)
    assert whole.live_jobs() == {job}
    scenario.ask()
    scenario.answered()
    scenario.told(("launch", "1 request waiting for echo"))
