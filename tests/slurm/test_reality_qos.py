"""A QOS that allows no more jobs than serve: the walltime's end is a gap that is told, and nothing waits for ever."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from devstack import apt, berth, demomodel
from devstack.checkout import cache_dir
from devstack.say import Progress
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.cli import CliClient
from tests.slurm.scenario import Scenario
from tests.slurm.test_handover import Load, end_soon, ended
from tests.slurm.whole import PARTITIONS, QUICK, Whole

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


@pytest.fixture(scope="module")
def limited(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    """Start a Berth on a cluster with accounting, whose QOS allows one job of a user to run."""
    progress = Progress()
    apt.install(apt.ACCOUNTING, progress, cache_dir() / "apt.log")
    spec = SlurmSpec(nodes=2, sched_interval_s=1, preemption=True, partitions=PARTITIONS, accounting=True)
    folder = tmp_path_factory.mktemp("limited")
    with berth.running(folder, demomodel.ensure(progress), progress, spec, QUICK) as running:
        whole = Whole(running)
        whole.slurm.run("sacctmgr", "-i", "modify", "qos", "normal", "set", "MaxJobsPerUser=1")
        yield whole


def test_a_hand_over_under_a_qos_that_allows_one_job(limited: Whole, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = limited
    scenario = Scenario(whole)
    whole.tune(load_s=0.5, tokens_per_s=40)
    scenario.ask()
    scenario.answered()
    [first] = whole.live_jobs()
    with Load(whole) as load:
        old = end_soon(whole, 30)
        pending = "SELECT slurm_reason FROM fleet_pilot WHERE state = 'pending'"
        whole.until(lambda: whole.one(pending) == "QOSMaxJobsPerUserLimit", what="Slurm's reason")
        told = "SELECT reason FROM fleet_poolstate WHERE reason LIKE 'The job that serves echo ends at %%'"
        whole.until(lambda: whole.one(told), what="the gap's sentence")
        whole.until(lambda: ended(whole, old), 120, "the end of the old job")
        scenario.post(2)
        scenario.ask()
        scenario.answered()
    assert load.wrong == []
    [job] = whole.live_jobs()
    assert job != first
    scenario.told(
        ("launch", "1 request waiting for echo"),
        ("launch", "but the job that serves echo ends at"),
        ("ended", "Its agent ended it: its time was nearly over."),
        beside={"hold"},
    )
    held = [reason for kind, reason in scenario.story() if kind == "hold"]
    assert "and Slurm has not started the next one yet: requests wait then, until about" in held[0], held
    assert held[-1] == "Nothing holds it back.", held
    # And accounting, where there is some, says how a job ended.
    monkeypatch.setenv("SLURM_CONF", whole.slurm.env()["SLURM_CONF"])
    usage = CliClient().usage([first, job])
    assert (usage[first].state, usage[job].state) == ("COMPLETED", "RUNNING")
    accounts = CliClient().accounts()
    assert any("normal" in qos for qos in accounts.values()), accounts
    whole.until(lambda: whole.one("SELECT accounts::text FROM fleet_cluster") == json.dumps(accounts))
