"""slurmctld is gone, or so slow that nothing answers: nothing is launched or killed, and what runs goes on."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


def outage(whole: Whole, begin: Callable[[], None], end: Callable[[], None]) -> None:
    scenario = Scenario(whole)
    scenario.post(3)
    scenario.answered()
    [job] = whole.live_jobs()
    pilot = whole.pilot(job)["id"]
    # A second replica, which has nowhere to run but in a new job.
    whole.rows("UPDATE catalog_pool SET max_replicas = 2, min_replicas = 0 WHERE name = 'echo'")
    planned = whole.one("SELECT count(*) FROM fleet_pilot")
    begin()
    try:
        whole.until(lambda: whole.one("SELECT error FROM fleet_waystate") != "", 120, "Slurm's silence")
        # Whoever has a hot model notices nothing; whoever needs a new job waits.
        scenario.post(3)
        scenario.ask(3)
        scenario.answered()
        whole.rows("UPDATE catalog_pool SET min_replicas = 2 WHERE name = 'echo'")
        held = "SELECT reason FROM fleet_poolstate WHERE pool_id = 'echo'"
        whole.until(lambda: "Slurm does not answer" in str(whole.one(held)), 120, "the reason")
        assert whole.one("SELECT count(*) FROM fleet_pilot WHERE id = %s AND state = 'up'", pilot) == 1
        assert whole.one("SELECT count(*) FROM fleet_pilot") == planned, "nothing is launched"
    finally:
        end()
    try:
        whole.until(lambda: whole.one("SELECT error FROM fleet_waystate") == "", 120, "Slurm's answer")
        hot = "SELECT count(*) FROM fleet_replica WHERE state = 'hot'"
        whole.until(lambda: whole.one(hot) == 2, 120, "the second replica")
        assert job in whole.live_jobs()
        assert whole.pilot(job)["state"] == "up"
    finally:
        whole.rows("UPDATE catalog_pool SET max_replicas = 1, min_replicas = 0 WHERE name = 'echo'")
    scenario.told(
        ("launch", "waiting for echo"),
        ("slurm_silent", "Slurm does not answer: nothing is launched or cancelled until it does"),
        ("hold", "Slurm does not answer; nothing is started until it does."),
        ("slurm_answers", "Slurm answers again"),
        ("launch", "Echo is to be kept ready"),
        ("hold", "Nothing holds it back."),
    )


def test_a_controller_that_is_down_delays_new_jobs_only(whole: Whole) -> None:
    with whole.profile(gpus=1):
        outage(whole, whole.slurm.stop_controller, whole.slurm.start_controller)


def test_a_controller_that_hangs_delays_new_jobs_only(whole: Whole) -> None:
    pid = whole.slurm.controller_pid
    with whole.profile(gpus=1):
        outage(whole, lambda: os.kill(pid, signal.SIGSTOP), lambda: os.kill(pid, signal.SIGCONT))
