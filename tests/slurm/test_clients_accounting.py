"""What each client learns from accounting, where the site has some: how jobs ended, and what may be charged."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import apt, pyslurm, slurmrestd, trees
from devstack.checkout import cache_dir
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.cli import CliClient
from scheduler.slurm.native import NativeClient
from scheduler.slurm.protocol import NoAnswer, SlurmClient, UsageInfo
from scheduler.slurm.render import render
from scheduler.slurm.rest import VERSIONS, RestClient
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way
from tests.secret_file import put_secret
from tests.slurm.contract import QUICK, spec, until

__all__ = ["spec"]

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    rest = trees.chosen() is not None and not slurmrestd.refusal()
    apt.install(apt.ACCOUNTING, Progress(), cache_dir() / "apt.log")
    spec = SlurmSpec(nodes=1, sched_interval_s=1, rest=rest, accounting=True, extra=(QUICK,))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        yield slurm


@pytest.fixture(params=["cli", *VERSIONS, "native"])
def client(request: pytest.FixtureRequest, cluster: Slurm, tmp_path: Path) -> Iterator[SlurmClient]:
    tree = trees.chosen()
    if request.param == "cli":
        yield CliClient(cluster.prefix, limit_s=15)
        return
    if tree is None or slurmrestd.refusal():
        pytest.skip("only Slurm's commands speak to 22.05: run bin/test --slurm trixie or testing")
    if request.param == "native":
        if why := pyslurm.refusal(tree):
            pytest.skip(why)
        python = pyslurm.ensure(tree, Progress())
        way = Way(kind="native", prefix=cluster.prefix, conf=str(cluster.conf), python=python)
        native = NativeClient(way, limit_s=15)
        yield native
        native.close()
        return
    put_secret(tmp_path / "token", cluster.token(3600))
    way = Way(kind="rest", address=cluster.rest_url, token_file=str(tmp_path / "token"))
    rest = RestClient(way, limit_s=15, versions=(request.param,))
    try:
        rest.jobs()
    except NoAnswer as error:
        pytest.skip(str(error))
    yield rest


def test_how_a_job_ended_and_which_accounts_there_are(client: SlurmClient, spec: JobSpec) -> None:
    job_id = client.submit(render(spec), spec)
    until(lambda: client.jobs()[spec.name][0].state == "RUNNING")
    client.cancel([job_id])
    until(lambda: client.jobs()[spec.name][0].state == "CANCELLED")
    found: dict[int, UsageInfo] = {}

    def known() -> bool:
        found.update(client.usage([job_id, 60_000_000]))
        return job_id in found and found[job_id].state == "CANCELLED"

    until(known)
    assert list(found) == [job_id]
    assert found[job_id].nodes == "gpu01"
    assert found[job_id].exit_code in ("0:0", "0:15")
    assert 0 <= found[job_id].elapsed_s < 120
    assert client.usage([]) == {}
    accounts = client.accounts()
    assert any("normal" in qos for qos in accounts.values()), accounts
