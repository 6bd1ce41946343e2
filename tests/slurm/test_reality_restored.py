"""A database that was restored from a dump: the fleet starts paused, and unknown jobs are adopted or rejected."""

from __future__ import annotations

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


def restore(whole: Whole) -> None:
    """Restore the tables as they were before the last job was launched."""
    for table in ("fleet_gpuclaim", "fleet_replica", "fleet_pilotlog", "fleet_pilot"):
        whole.rows(f"DELETE FROM {table}")
    paused = "SELECT paused FROM fleet_cluster"

    def tried() -> bool:
        # A tick that is under way writes its own time over it: once more, then.
        if not whole.one(paused):
            whole.rows("UPDATE fleet_cluster SET ticked_at = ticked_at - interval '1 day'")
        whole.ticks(1)
        return bool(whole.one(paused))

    whole.until(tried, 120, "the pause")


def hot_job(whole: Whole) -> tuple[Scenario, int]:
    scenario = Scenario(whole)
    scenario.ask()
    scenario.answered()
    [job] = whole.live_jobs()
    return scenario, job


def test_after_a_restore_unknown_jobs_are_kept_and_adopted(whole: Whole) -> None:
    scenario, job = hot_job(whole)
    restore(whole)
    try:
        scenario.post(2)
        whole.ticks(6)  # well beyond the grace that an orphan has
        assert whole.live_jobs() == {job}, "nothing is cancelled or launched"
        assert whole.one("SELECT orphans ->> %s FROM fleet_cluster", str(job)) is not None
        assert f"took job {job}" in whole.command("adopt", job_id=job, profile="demo")
        whole.until(lambda: whole.pilot(job)["state"] == "up", what="its agent's registration")
    finally:
        whole.command("resume")
    scenario.ask()
    scenario.answered()
    assert whole.live_jobs() == {job}, "the allocation is used again"
    scenario.told(
        ("launch", "1 request waiting for echo"),
        ("pause", "The database is older than this installation's last tick"),
        ("adopt", f"took job {job}, which nothing here knew"),
        ("resume", ""),
        ("place", "a job that we already have holds free GPUs"),
        beside={"hold"},
    )


def test_an_unknown_job_can_be_rejected(whole: Whole) -> None:
    scenario, job = hot_job(whole)
    restore(whole)
    try:
        scenario.post()
        assert f"cancelled job {job}" in whole.command("reject", job_id=job)
        whole.until(lambda: job not in whole.live_jobs(), what="its end")
        scenario.queued()
    finally:
        whole.command("resume")
    scenario.answered()
    scenario.told(
        ("launch", "1 request waiting for echo"),
        ("pause", "The database is older than this installation's last tick"),
        ("reject", f"cancelled job {job}, which nothing here knew"),
        ("resume", ""),
        ("launch", "1 request waiting for echo"),
        beside={"hold"},
    )


def test_an_orphan_without_a_restore_is_cancelled_when_it_reports_nothing(whole: Whole) -> None:
    scenario, job = hot_job(whole)
    for table in ("fleet_gpuclaim", "fleet_replica", "fleet_pilotlog", "fleet_pilot"):
        whole.rows(f"DELETE FROM {table}")
    whole.until(lambda: job not in whole.live_jobs(), 120, "the orphan's end")
    assert ("cancel_unknown", f"Job {job} is cancelled: no pilot of ours owns it.") in scenario.story()
    scenario.ask()
    scenario.answered()
