"""Submitting to a real Slurm that answers late, shows late, or forgets: one job, adopted, never doubled."""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
import redis as redis_library
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from portal.fleet.models import Decision, FleetEvent, Pilot
from portal.ledger.models import Request
from scheduler.slurm.cli import CliClient
from scheduler.slurm.protocol import Jobs
from tests.slurm import real_world
from tests.slurm.contract import until
from tests.slurm.real_world import RealWorld

pytestmark = [pytest.mark.slurm, pytest.mark.django_db(transaction=True)]


def story() -> list[tuple[str, str]]:
    return list(Decision.objects.order_by("id").values_list("kind", "reason"))


def is_kept(request: UUID) -> bool:
    """Tell whether a request waits in its line, in nobody's hands."""
    return Request.objects.filter(pk=request, state="queued", holder__isnull=True).exists()


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    # An ended job is forgotten after two seconds, or whenever slurmctld looks next.
    spec = SlurmSpec(nodes=1, sched_interval_s=1, min_job_age_s=2)
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture
def world(
    redis: redis_library.Redis, cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealWorld]:
    with real_world.on(cluster, redis, tmp_path, monkeypatch) as world:
        yield world


def test_a_job_whose_sbatch_timed_out_is_adopted_by_its_name(
    world: RealWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = shutil.which("sbatch")
    slow = tmp_path / "bin" / "sbatch"
    slow.parent.mkdir()
    # The job is made; what says so comes too late.
    slow.write_text(f'#!/bin/sh\n{real} "$@"\ncase "$*" in *--version*) ;; *) exec sleep 60 ;; esac\n')
    slow.chmod(0o755)
    request = world.ask()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{slow.parent}:{os.environ['PATH']}")
        world.client = CliClient(limit_s=4)
        world.tick()
        assert "no answer within 4 s" in world.way().error
        assert world.pilot().state == "planned"
        assert is_kept(request)
    world.client = CliClient(limit_s=15)
    world.tick()
    pilot = world.pilot()
    [job] = world.client.jobs()[pilot.job_name]
    assert (pilot.job_id, Pilot.objects.count()) == (job.job_id, 1)
    assert FleetEvent.objects.filter(pilot=pilot.pk, new="submitted", detail=f"job {job.job_id}").count() == 1
    assert is_kept(request)
    (launched, _), (silent, why), (answers, _), (adopted, reason) = story()
    assert (launched, silent, answers, adopted) == ("launch", "slurm_silent", "slurm_answers", "adopt")
    assert "sbatch: no answer within 4 s" in why
    assert reason == f"Job {job.job_id} bears its name: sbatch did not say so, but this is what it asked for."


def test_a_job_that_never_came_to_be_is_asked_for_once_more(
    world: RealWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = tmp_path / "bin" / "sbatch"
    broken.parent.mkdir()
    broken.write_text(
        f'#!/bin/sh\ncase "$*" in *--version*) exec {shutil.which("sbatch")} --version ;; esac\n'
        "echo 'sbatch: error: Batch job submission failed: Unable to contact slurm controller' >&2; exit 1\n"
    )
    broken.chmod(0o755)
    request = world.ask()
    with monkeypatch.context() as patch:
        patch.setenv("PATH", f"{broken.parent}:{os.environ['PATH']}")
        world.client = CliClient(limit_s=15)
        world.tick()
        assert world.pilot().state == "planned"
    world.client = CliClient(limit_s=15)
    world.tick()
    assert (world.pilot().state, Pilot.objects.count()) == ("submitted", 1)
    assert [kind for kind, _ in story()] == ["launch", "slurm_silent", "slurm_answers", "resubmit"]
    assert is_kept(request)


class ShowsLate(CliClient):
    """A controller whose listing lags behind what it accepted, as a busy one's does."""

    def __init__(self) -> None:
        super().__init__(limit_s=15)
        self.lags = True

    def jobs(self) -> Jobs:
        found = super().jobs()
        return {} if self.lags else found


def test_a_job_that_is_not_visible_yet_is_waited_for(world: RealWorld) -> None:
    world.client = late = ShowsLate()
    request = world.ask()
    world.tick()
    pilot = world.pilot()
    assert pilot.state == "submitted"
    for _ in range(3):
        world.tick()
    assert [p.pk for p in Pilot.objects.all()] == [pilot.pk]
    assert world.pilot().state == "submitted"
    late.lags = False
    world.tick()
    assert world.pilot().slurm_state in ("PENDING", "CONFIGURING", "RUNNING")
    assert [kind for kind, _ in story()] == ["launch"]
    assert is_kept(request)


def test_a_job_that_slurm_forgot_has_ended_even_where_there_is_no_accounting(world: RealWorld) -> None:
    world.config = dataclasses.replace(world.config, alive_s=6.0)
    request = world.ask()
    world.tick()
    pilot = world.pilot()
    assert pilot.job_id is not None
    world.client.cancel([pilot.job_id])
    # The loop was away while the job ended and was forgotten.
    until(lambda: pilot.job_name not in world.client.jobs(), 150)

    def ended() -> bool:
        world.tick()
        pilot.refresh_from_db()
        return pilot.state == "ended"

    until(ended, 30)
    assert pilot.end_reason == f"Slurm no longer knows job {pilot.job_id}, and it reports nothing."
    assert [kind for kind, _ in story()][:2] == ["launch", "ended"]
    assert story()[1][1].startswith(pilot.end_reason)
    assert is_kept(request)
