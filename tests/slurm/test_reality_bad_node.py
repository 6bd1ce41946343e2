"""A node on which no start works is left out for a while; the model is not blamed for it."""

from __future__ import annotations

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import POOL, Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]

# Slurm fills its nodes in this order, and a node that fails at once is always the emptiest.
FIRST = "gpu01"


def test_a_node_that_fails_its_starts_is_left_out_and_later_tried_again(whole: Whole) -> None:
    scenario = Scenario(whole)
    with whole.profile(prologue=f'test "$SLURMD_NODENAME" != {FIRST} || exit 7'):
        scenario.post(3)
        scenario.answered(90)
    [job] = whole.live_jobs()
    assert whole.pilot(job)["node"] == "gpu02"
    assert f"ExcNodeList={FIRST}" in whole.slurm.run("scontrol", "show", "job", str(job))
    assert whole.one("SELECT latched_at FROM fleet_poolstate WHERE pool_id = %s", POOL) is None
    whole.rows("UPDATE fleet_badnode SET excluded_until = now()")
    whole.until(lambda: scenario.story()[-1][0] == "readmit_node", what="its return")
    whole.ticks(2)
    assert not whole.one("SELECT count(*) FROM fleet_badnode WHERE excluded_until > now()")
    failed = ("ended", "its program failed (NonZeroExitCode)")
    scenario.told(
        ("launch", "waiting for echo"),
        failed,
        ("launch", "3 requests waiting for echo"),
        failed,
        ("exclude_node", f"2 starts in a row failed on {FIRST}: new jobs leave it out for 30 min."),
        ("launch", "3 requests waiting for echo"),
        ("readmit_node", f"{FIRST} has been left out long enough"),
        beside={"hold"},
    )
