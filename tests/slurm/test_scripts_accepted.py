"""Each kind of job script, asked of a real Slurm of whichever release is here: `sbatch --test-only` takes it.

And that what is asked for reaches the job, and what a site has not is refused in its words.
"""

from __future__ import annotations

import getpass
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from portal.fleet.slurm_words import refused_for_good
from scheduler.slurm.cli import CliClient
from scheduler.slurm.protocol import Rejected
from scheduler.slurm.render import render
from scheduler.slurm.spec import JobSpec, SecretFile
from tests.job_specs import EXTRA_CONF, NODE, RESERVATION, SPECS

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    spec = SlurmSpec(nodes=3, sched_interval_s=1, extra=EXTRA_CONF, node=NODE)
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        reserve(slurm)
        yield slurm


def reserve(slurm: Slurm) -> None:
    when = ("StartTime=now", "Duration=600", f"Users={getpass.getuser()}", "Nodes=gpu01")
    slurm.run("scontrol", "create", "reservation", f"ReservationName={RESERVATION}", *when)


@pytest.fixture
def client(cluster: Slurm, monkeypatch: pytest.MonkeyPatch) -> CliClient:
    monkeypatch.setenv("SLURM_CONF", cluster.env()["SLURM_CONF"])
    return CliClient(limit_s=30)


def here(spec: JobSpec, folder: Path) -> JobSpec:
    """Return the same job with a log and a secret that can be written, and a name of its own."""
    pilot = uuid.uuid4().hex
    secret = SecretFile(f"{folder}/secret/{pilot}.json", "{}")
    return replace(
        spec, name=f"berth-test-{pilot}", pilot=pilot, log_path=f"{folder}/log/{pilot}.out", secret=secret
    )


@pytest.mark.parametrize("name", SPECS)
def test_sbatch_would_take_it(client: CliClient, name: str) -> None:
    assert client.estimate_start(SPECS[name]) > 0


def test_the_features_of_its_nodes_are_known(client: CliClient) -> None:
    (group,) = client.partitions()["gpu"].groups
    assert group.features == ("a100", "nvlink", "rack1", "rack2")


def test_what_is_asked_for_is_what_the_job_has(client: CliClient, cluster: Slurm, tmp_path: Path) -> None:
    spec = here(SPECS["gpus_per_node"], tmp_path)
    job_id = client.submit(render(spec), spec)
    try:
        shown = cluster.run("scontrol", "show", "job", str(job_id))
        for words in (
            "Features=a100&nvlink", "Licenses=ansys:2,matlab", f"Reservation={RESERVATION}", "ExcNodeList=gpu02",
            "gpu:a100:2", "Requeue=0",
        ):  # fmt: skip
            assert words in shown, shown
    finally:
        client.cancel([job_id])


def test_a_whole_node_is_the_jobs_alone(client: CliClient, cluster: Slurm, tmp_path: Path) -> None:
    spec = here(SPECS["whole_nodes"], tmp_path)
    job_id = client.submit(render(spec), spec)
    try:
        shown = cluster.run("scontrol", "show", "job", str(job_id))
        for words in ("OverSubscribe=NO", "Comment=berth:waves", "Contiguous=1"):
            assert words in shown, shown
    finally:
        client.cancel([job_id])


@pytest.mark.parametrize(
    "change",
    [
        {"constraint": "h100"},
        {"reservation": "theirs"},
        {"licenses": "fluent:1"},
        {"gpus_per_node": "v100:1"},
    ],
    ids=str,
)
def test_what_the_cluster_has_not_is_refused_for_good(
    client: CliClient, tmp_path: Path, change: dict[str, str]
) -> None:
    spec = here(replace(SPECS["plain"], **change), tmp_path)  # type: ignore[arg-type]
    with pytest.raises(Rejected) as caught:
        client.submit(render(spec), spec)
    assert refused_for_good(caught.value.reason), caught.value.reason
