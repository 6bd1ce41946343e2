"""A node's clock is ten minutes wrong: its pilot lives as long as Slurm lets it, and a request's times are in order."""

from __future__ import annotations

import itertools
import re
from datetime import datetime

import pytest
from devstack import apt, checkout
from devstack.say import SILENT

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]

# The job script's first line has read the clock already.
PROLOGUE = """
export LD_PRELOAD={library} FAKETIME={offset}s FAKETIME_DONT_FAKE_MONOTONIC=1
BERTH_STARTED_AT=$(date +%s.%N)
"""
STEPS = ("accepted", "job_submitted", "job_running", "engine_started", "engine_ready", "first_token", "done")


@pytest.mark.parametrize("offset", ["+600", "-600"])
def test_a_pilot_on_a_wrong_clock_serves_and_its_times_stay_in_order(whole: Whole, offset: str) -> None:
    apt.install(apt.FAKE_CLOCK, SILENT, checkout.cache_dir() / "apt.log")
    scenario = Scenario(whole)
    prologue = PROLOGUE.format(library=apt.fake_clock(), offset=offset)
    # Ten minutes ahead, an agent that believed its own clock would take this job's time for over.
    with whole.profile(prologue=prologue, walltime_min=8, walltime_least_min=8):
        [request] = scenario.post()
        scenario.answered()
        [job] = whole.live_jobs()
        whole.ticks(5)
        scenario.ask()
        scenario.answered()
        assert whole.live_jobs() == {job}
        logs = [path.read_text() for path in (whole.site.run_dir / "spool").rglob("*.out")]
        side = "ahead of" if offset == "+600" else "behind"
        assert any(re.search(rf"clock is (600|599)\.\d s {side} the portal's", text) for text in logs)
        scenario.told(("launch", "1 request waiting for echo"))
        line = whole.detail(request)["timeline"]
        at = [datetime.fromisoformat(line[step]).timestamp() for step in STEPS if line[step]]
        assert len(at) >= 6
        assert all(after - before > -0.5 for before, after in itertools.pairwise(at)), line
        whole.slurm.cancel_jobs()
