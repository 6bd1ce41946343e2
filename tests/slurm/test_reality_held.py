"""Jobs that Slurm will never start: withdrawn, their profile held with the reason, others used instead."""

from __future__ import annotations

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import POOL, Whole

pytestmark = pytest.mark.slurm


def held_profile(whole: Whole) -> str:
    sql = """SELECT s.reason FROM fleet_profilestate s JOIN catalog_profile p ON p.id = s.profile_id
             WHERE p.name = 'demo' AND s.latched_at IS NOT NULL"""
    return str(whole.one(sql) or "")


@pytest.mark.nightly
@pytest.mark.parametrize("least_min", [30, 0])
def test_a_profile_beyond_its_partitions_limit_is_held_and_another_one_used(
    whole: Whole, least_min: int
) -> None:
    """Slurm refuses a job whose least time is too long; another one it takes, and never starts."""
    scenario = Scenario(whole)
    with (
        whole.profile("other", enabled=True, cost=9.0),
        whole.profile(partition="short", walltime_min=30, walltime_least_min=least_min, cost=0.1),
    ):
        scenario.post(2)
        scenario.ask()
        scenario.answered()
        never = "Slurm will never start its job: it asks for more time than its partition allows"
        refused = "Slurm refused the job: Invalid time-min specification"
        why = refused if least_min else never
        assert held_profile(whole).startswith(why)
        assert whole.failures() == 0, "the model is not to blame"
        withdrawn = [] if least_min else [("cancel", why)]
        begun, served = ("launch", "waiting for echo"), ("launch", "3 requests waiting for echo")
        scenario.told(begun, *withdrawn, ("hold_profile", why), served)
        whole.command("relaunch", profile="demo")
        assert held_profile(whole) == ""
        whole.empty()


def test_a_job_that_an_administrator_holds_is_withdrawn_and_everybody_told_why(whole: Whole) -> None:
    scenario = Scenario(whole)
    whole.hold_nodes(held=True)
    try:
        [request] = scenario.post()
        whole.until(lambda: whole.one("SELECT count(*) FROM fleet_pilot WHERE state = 'pending'"))
        [job] = whole.live_jobs()
        whole.slurm.run("scontrol", "hold", str(job))
        whole.until(lambda: whole.pilot(job)["state"] == "ended", what="the held job's withdrawal")
        assert "held by an administrator" in whole.pilot(job)["end_reason"]
        whole.until(lambda: "held by an administrator" in held_profile(whole), what="the profile's hold")
        whole.ticks(3)
        assert not whole.live_jobs(), "a second one would be held, too"
        scenario.queued()
        assert "held by an administrator" in str(whole.detail(request)), "whoever waits is told"
    finally:
        whole.hold_nodes(held=False)
    whole.command("relaunch", profile="demo")
    whole.command("relaunch", POOL)
    scenario.answered()
    held = "Slurm will never start its job: it was held by an administrator"
    scenario.told(
        ("launch", "1 request waiting for echo"),
        ("cancel", held),
        ("hold_profile", held),
        ("hold", held),
        ("relaunch", "demo"),
        ("relaunch", "echo"),
        ("launch", "1 request waiting for echo"),
    )
