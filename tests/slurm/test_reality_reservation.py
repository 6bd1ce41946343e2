"""A maintenance reservation ahead: a job that would run into it asks for less time, or waits until it is over."""

from __future__ import annotations

import contextlib
import getpass
from collections.abc import Iterator

import pytest

from tests.slurm.scenario import Scenario
from tests.slurm.whole import Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]

AHEAD_MIN = 12


@contextlib.contextmanager
def maintenance(whole: Whole, in_min: int) -> Iterator[None]:
    """Reserve all nodes for maintenance, known to the loop."""
    whole.slurm.run(
        "scontrol", "create", "reservation", "ReservationName=maintenance", "Nodes=ALL", f"Users={getpass.getuser()}",
        f"StartTime=now+{in_min}minutes", "Duration=60", "Flags=MAINT,IGNORE_JOBS",
    )  # fmt: skip
    try:
        whole.rows("UPDATE fleet_cluster SET facts_at = NULL")
        whole.until(lambda: "maintenance" in str(whole.one("SELECT reservations FROM fleet_cluster")))
        yield
    finally:
        whole.slurm.run("scontrol", "delete", "ReservationName=maintenance")
        whole.rows("UPDATE fleet_cluster SET facts_at = NULL")
        whole.until(lambda: "maintenance" not in str(whole.one("SELECT reservations FROM fleet_cluster")))


def test_a_job_starts_before_a_reservation_because_its_time_limit_is_clipped(whole: Whole) -> None:
    scenario = Scenario(whole)
    with maintenance(whole, AHEAD_MIN), whole.profile(walltime_min=60, walltime_least_min=5):
        scenario.post(2)
        scenario.answered()
        [job] = whole.live_jobs()
        assert 5 <= whole.pilot(job)["walltime_min"] <= AHEAD_MIN
        scenario.told(("launch", "a new one is submitted, up to the reservation of its nodes at "))


def test_where_a_reservation_leaves_no_useful_time_requests_wait_until_it_is_over(whole: Whole) -> None:
    scenario = Scenario(whole)
    with maintenance(whole, 3), whole.profile(walltime_min=60, walltime_least_min=5):
        [request] = scenario.post()
        scenario.ask()
        soon = "A reservation over the nodes of demo begins too soon for a job to be useful."
        whole.until(lambda: soon in str(whole.detail(request)), what="the reason")
        whole.ticks(3)
        assert not whole.live_jobs()
        scenario.queued()
    scenario.answered()
    scenario.told(
        ("hold", soon), ("launch", "2 requests waiting for echo"), ("hold", "Nothing holds it back.")
    )
