"""A node's cable is pulled: nothing there has died and nothing says a word, neither to us nor to Slurm."""

from __future__ import annotations

import pytest
from devstack import hosts

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.nightly,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]


def test_the_work_of_a_node_that_is_cut_off_runs_on_another_and_nothing_is_answered_twice(
    whole: Whole,
) -> None:
    scenario = Scenario(whole, tokens_per_s=2)
    scenario.post(3)
    job = scenario.running(3)
    node = whole.pilot(job)["node"]
    whole.tune(load_s=0, tokens_per_s=200)
    whole.slurm.hosts.cut(node)
    try:
        whole.until(lambda: "silent" in [kind for kind, _ in scenario.story()], 120, "its notice")
        scenario.ask()
        scenario.answered()
        [other] = whole.live_jobs() - {job}
        assert whole.pilot(other)["node"] not in ("", node)
        assert whole.failures() == 0
        agents = list(whole._pids_of("gpuworker.agent"))
        assert len(agents) == 2, "nothing on the node that was cut off has ended"
    finally:
        whole.slurm.node_back(node)
    # What still ran there comes back to a portal that has given its work to others, and ends.
    whole.until(lambda: len(list(whole._pids_of("gpuworker.agent"))) == 1, 120, "the end of the agent there")
    whole.until(lambda: whole.pilot(job)["state"] == "ended", 120, "the end of its pilot")
    assert job not in whole.live_jobs()
    scenario.answered()
