"""A job that Slurm does not start: explained, kept, not doubled; withdrawn only when nobody wants it any more."""

from __future__ import annotations

import urllib.request

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = pytest.mark.slurm

PENDING = "SELECT count(*) FROM fleet_pilot WHERE state = 'pending'"


@pytest.mark.nightly
def test_a_pending_job_is_explained_kept_and_not_doubled(whole: Whole) -> None:
    scenario = Scenario(whole)
    before = whole.jobs()
    whole.hold_nodes(held=True)
    try:
        [request] = scenario.post()
        whole.until(lambda: whole.one(PENDING))
        # As if it had been so for hours.
        whole.rows("UPDATE fleet_pilot SET planned_at = planned_at - interval '5 h' WHERE state <> 'ended'")
        whole.rows("UPDATE fleet_replica SET wanted_at = wanted_at - interval '5 h' WHERE ended_at IS NULL")
        whole.rows(
            "UPDATE ledger_request SET accepted_at = accepted_at - interval '5 h' WHERE ended_at IS NULL"
        )
        scenario.post(2)
        scenario.ask()
        whole.ticks(4)
        [job] = whole.jobs() - before
        assert whole.live_jobs() == {job}
        assert whole.pilot(job)["state"] == "pending"
        told = str(whole.detail(request))
        assert f"Slurm job {job} was submitted at" in told
        assert "the nodes it needs are down, drained or kept for jobs of higher priority" in told
    finally:
        whole.hold_nodes(held=False)
    scenario.answered()
    assert whole.jobs() - before == {job}
    scenario.told(
        ("launch", "1 request waiting for echo, and no job of ours has room: a new one is submitted.")
    )


def test_a_pending_job_that_nobody_wants_any_more_is_withdrawn(whole: Whole) -> None:
    scenario = Scenario(whole, keep_alive_s=1)
    whole.hold_nodes(held=True)
    try:
        request = whole.post()
        whole.until(lambda: whole.one(PENDING))
        [job] = whole.live_jobs()
        token = {"Authorization": f"Bearer {whole.berth.token}"}
        address = f"{whole.site.url}/api/v1/requests/{request}"
        urllib.request.urlopen(urllib.request.Request(address, method="DELETE", headers=token)).close()
        whole.until(lambda: not whole.live_jobs(), what="the job's withdrawal")
    finally:
        whole.hold_nodes(held=False)
    whole.until(lambda: whole.pilot(job)["state"] == "ended")
    assert whole.detail(request)["state"] == "cancelled", "by whoever asked it"
    scenario.told(
        ("launch", "1 request waiting for echo"),
        ("cancel", "Nobody wants echo any more: its job is withdrawn before it starts."),
    )
    assert whole.failures() == 0
