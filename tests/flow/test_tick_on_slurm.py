"""The control loop on a real private Slurm: real sbatch, squeue and scancel, with a shell script as the agent."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_library
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from portal.catalog.models import Profile
from portal.fleet.models import Pilot, PilotLog
from scheduler.reconcile import run_once
from scheduler.slurm.cli import CliClient
from scheduler.slurm.spec import JobSpec
from tests.slurm import real_world
from tests.slurm.contract import until
from tests.slurm.real_world import RealWorld

pytestmark = [pytest.mark.slurm, pytest.mark.django_db(transaction=True)]


class Killed(BaseException):
    """A stand-in for SIGKILL of the loop's process at a chosen moment."""


class DiesAfterSubmit(CliClient):
    def submit(self, script: str, spec: JobSpec) -> int:
        super().submit(script, spec)
        raise Killed


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    spec = SlurmSpec(nodes=1, sched_interval_s=1, extra=("MessageTimeout=3",))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture
def world(
    redis: redis_library.Redis, cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealWorld]:
    with real_world.on(cluster, redis, tmp_path, monkeypatch) as world:
        yield world


def seen(world: RealWorld, slurm_state: str) -> bool:
    world.tick()
    return Pilot.objects.filter(slurm_state=slurm_state).exists()


def test_a_request_becomes_a_running_job_in_the_tick_that_follows(world: RealWorld) -> None:
    world.tick()
    world.ask()
    world.tick()
    pilot = world.pilot()
    assert pilot.state == "submitted"
    until(lambda: seen(world, "RUNNING"))
    pilot.refresh_from_db()
    assert pilot.node == "gpu01"
    assert pilot.slurm_end_at is not None
    assert pilot.slurm_start_at is not None
    assert 119 <= (pilot.slurm_end_at - pilot.slurm_start_at).total_seconds() <= 601


def test_a_loop_killed_after_sbatch_adopts_the_job_and_submits_no_second_one(world: RealWorld) -> None:
    world.client = DiesAfterSubmit(limit_s=15)
    world.ask()
    with pytest.raises(Killed):
        world.tick()
    assert world.pilot().state == "planned"
    world.client = CliClient(limit_s=15)
    world.tick()
    world.tick()
    mine = world.client.jobs()[world.pilot().job_name]
    assert [job.job_id for job in mine] == [world.pilot().job_id]
    assert Pilot.objects.count() == 1


def test_a_controller_that_is_gone_launches_and_kills_nothing(world: RealWorld, cluster: Slurm) -> None:
    world.ask()
    world.tick()
    until(lambda: seen(world, "RUNNING"))
    pilot = world.pilot()
    world.add_pool("mistral", gpus=2)
    world.ask("mistral")
    cluster.stop_controller()
    try:
        world.tick()
        assert "squeue" in world.way().error
        assert Pilot.objects.count() == 1
        assert world.pilot().state == pilot.state
    finally:
        cluster.start_controller()
    world.tick()
    assert world.way().error == ""
    assert Pilot.objects.exclude(state="ended").count() == 2


def test_a_controller_that_forgot_a_job_and_gives_its_number_again_ends_that_pilot_only(
    world: RealWorld, cluster: Slurm
) -> None:
    world.ask()
    world.tick()
    until(lambda: seen(world, "RUNNING"))
    older = world.pilot()
    assert older.job_id is not None
    cluster.stop_controller()
    cluster.start_controller(forget=True)
    for number in range(1, older.job_id):
        argv = ["sbatch", "--parsable", "--export=SLURM_CONF", "--output=/dev/null", "--wrap=true"]
        assert int(cluster.run(*argv)) == number
    world.add_pool("mistral", gpus=2)
    world.ask("mistral")
    world.tick()
    older.refresh_from_db()
    assert (older.state, "gave the number to another" in older.end_reason) == ("ended", True)
    newer = Pilot.objects.exclude(state="ended").get(job_id=older.job_id)

    def runs() -> bool:
        world.tick()
        newer.refresh_from_db()
        return newer.slurm_state == "RUNNING"

    until(runs)


def test_a_job_that_fails_ends_its_pilot_and_keeps_its_log_and_not_its_secret(world: RealWorld) -> None:
    Path(world.config.agent_python).write_text("#!/bin/sh\necho no such model >&2\nexit 3\n")
    world.ask()
    world.tick()
    pilot = world.pilot()

    def over() -> bool:
        world.tick()
        pilot.refresh_from_db()
        return pilot.state == "ended"

    until(over)
    assert "its program failed" in pilot.end_reason
    assert "no such model" in PilotLog.objects.get(pilot=pilot).text
    assert list((world.config.spool / "secret").iterdir()) == []


def test_two_installations_of_one_user_leave_each_others_jobs_alone(world: RealWorld, tmp_path: Path) -> None:
    world.ask()
    world.tick()
    mine = world.pilot()
    other = dataclasses.replace(world.config, state_dir=tmp_path / "other", orphan_grace_s=0.0)
    assert other.instance != world.config.instance
    Profile.objects.create(name="other", cluster="other", partition="gpu")
    for _ in range(2):
        assert run_once(
            dataclasses.replace(other, cluster="other"), world.redis, lambda prefix: world.client, time.time
        )
    assert world.way("other").answered_at is not None
    assert world.client.jobs()[mine.job_name][0].state in ("PENDING", "RUNNING", "CONFIGURING")


def test_a_job_that_no_node_can_run_is_withdrawn_and_explained(world: RealWorld) -> None:
    Profile.objects.update(gpus=8)
    world.ask()
    world.tick()
    pilot = Pilot.objects.get()
    assert pilot.state == "ended"
    assert "Slurm refused the job: Requested node configuration is not available" in pilot.end_reason
