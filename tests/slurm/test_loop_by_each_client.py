"""The control loop through slurmrestd and through pyslurm: jobs come, are adopted and go, and a client that lacks a verb
makes no silence."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_library
from devstack import pyslurm, slurmrestd, trees
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from portal.fleet.models import Decision, Pilot
from scheduler.slurm.native import NativeClient
from scheduler.slurm.protocol import NoAnswer, SlurmClient
from scheduler.slurm.rest import RestClient
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way
from tests.secret_file import put_secret
from tests.slurm import real_world
from tests.slurm.contract import until
from tests.slurm.real_world import RealWorld

pytestmark = [pytest.mark.slurm, pytest.mark.django_db(transaction=True)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if trees.chosen() is None or slurmrestd.refusal():
        pytest.skip("only Slurm's commands speak to 22.05: run bin/test --slurm trixie or testing")
    spec = SlurmSpec(nodes=1, sched_interval_s=1, rest=True, extra=("MessageTimeout=3",))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture(params=["rest", "native"])
def client(request: pytest.FixtureRequest, cluster: Slurm, tmp_path: Path) -> Iterator[SlurmClient]:
    tree = trees.chosen()
    assert tree is not None
    if request.param == "rest":
        put_secret(tmp_path / "token", cluster.token(3600))
        way = Way(kind="rest", address=cluster.rest_url, token_file=str(tmp_path / "token"))
        yield RestClient(way, limit_s=8)
        return
    if why := pyslurm.refusal(tree):
        pytest.skip(why)
    python = pyslurm.ensure(tree, Progress())
    way = Way(kind="native", prefix=cluster.prefix, conf=str(cluster.conf), python=python)
    native = NativeClient(way, limit_s=8)
    yield native
    native.close()


@pytest.fixture
def world(
    redis: redis_library.Redis,
    cluster: Slurm,
    client: SlurmClient,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[RealWorld]:
    with real_world.on(cluster, redis, tmp_path, monkeypatch) as world:
        world.client = client
        yield world


def seen(world: RealWorld, slurm_state: str) -> bool:
    world.tick()
    return Pilot.objects.filter(slurm_state=slurm_state).exists()


def test_a_request_becomes_a_job_that_runs_and_ends_and_nothing_was_silent(
    world: RealWorld, cluster: Slurm
) -> None:
    world.tick()
    world.ask()
    world.tick()
    assert world.pilot().state == "submitted"
    until(lambda: seen(world, "RUNNING"))
    pilot = world.pilot()
    assert pilot.node == "gpu01"
    assert pilot.slurm_end_at is not None
    cluster.run("scancel", str(pilot.job_id))

    def ended() -> bool:
        world.tick()
        pilot.refresh_from_db()
        return pilot.state == "ended"

    until(ended)
    assert world.way().error == ""
    assert not Decision.objects.filter(kind="slurm_silent").exists()
    described = world.cluster()
    assert "gpu" in described.partitions
    assert "gpu:a100" in described.partitions["gpu"]["groups"][0]["gres"]


def test_a_job_whose_submission_had_no_answer_is_adopted_and_there_is_no_second_one(
    world: RealWorld, client: SlurmClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    submit = client.submit

    def lost(script: str, spec: JobSpec) -> int:
        submit(script, spec)
        raise NoAnswer("the answer was lost")

    monkeypatch.setattr(client, "submit", lost)
    world.ask()
    world.tick()
    assert world.pilot().state == "planned"
    monkeypatch.setattr(client, "submit", submit)
    world.tick()
    world.tick()
    mine = client.jobs()[world.pilot().job_name]
    assert [job.job_id for job in mine] == [world.pilot().job_id]
    assert Pilot.objects.count() == 1


def test_a_refused_job_ends_its_pilot_with_slurms_reason(world: RealWorld) -> None:
    world.profile.partition = "nowhere"
    world.profile.save()
    world.ask()
    world.tick()
    pilot = Pilot.objects.get()
    assert pilot.state == "ended"
    assert "nvalid partition name specified" in pilot.end_reason
    assert world.way().error == ""


def test_a_controller_that_is_gone_launches_and_kills_nothing(world: RealWorld, cluster: Slurm) -> None:
    world.ask()
    world.tick()
    until(lambda: seen(world, "RUNNING"))
    cluster.stop_controller()
    try:
        world.tick()
        assert world.way().error
        assert world.pilot().state in ("pending", "submitted")
    finally:
        cluster.start_controller()

    def answers() -> bool:
        world.tick()
        return world.way().error == ""

    until(answers)
    assert Pilot.objects.exclude(state="ended").count() == 1
