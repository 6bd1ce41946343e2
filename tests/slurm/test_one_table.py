"""One table of directives, three clients: a job is the same in Slurm whichever of them submitted it.

Each spec goes through Slurm's commands and through the other client, and `scontrol show job` of both is compared, but for
what is each job's own. Runs where there is another client: slurmrestd from 23.11 on, pyslurm for 26.05.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.cli import CliClient
from scheduler.slurm.directives import BadDirective
from scheduler.slurm.native import NativeClient
from scheduler.slurm.protocol import NoAnswer, SlurmClient
from scheduler.slurm.render import render
from scheduler.slurm.rest import VERSIONS, RestClient
from scheduler.slurm.way import Way
from tests.job_specs import EXTRA_CONF, NODE, RESERVATION, SPECS
from tests.secret_file import put_secret
from tests.slurm import test_native_client, test_rest_client
from tests.slurm.test_scripts_accepted import here, reserve

pytestmark = pytest.mark.slurm
# Each job's own; what the scheduler makes of it as time passes; what only sbatch sends, and says twice (TresPerTask is
# CPUs/Task once more, OOMKillStep=0 is its default).
OWN = re.compile(
    r"(JobId|JobName|Priority|JobState|Reason|\w*Time|LastSchedEval|Scheduler|AllocNode:Sid|Std(Err|Out)|NodeList|BatchHost"
    r"|Command|SubmitLine|RunTime|SecsPreSuspend|Dependency|ExitCode|TresPerTask|OOMKillStep)"
)
NAMES = [name for name in SPECS if name != "typical"]  # its prologue is no matter of Slurm's


@pytest.fixture(scope="module", params=["rest", "native"])
def kind(request: pytest.FixtureRequest) -> str:
    module = test_rest_client if request.param == "rest" else test_native_client
    if why := module.why_not():
        pytest.skip(why)
    return str(request.param)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory, kind: str) -> Iterator[Slurm]:
    # A partition that starts nothing: what is compared is what was asked for.
    down = "PartitionName=gpu Default=YES Nodes=ALL MaxTime=240 DefaultTime=30 State=DOWN"
    spec = SlurmSpec(nodes=3, rest=kind == "rest", extra=EXTRA_CONF, node=NODE, partitions=(down,))
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        reserve(slurm)
        yield slurm


@pytest.fixture(params=["", *VERSIONS])
def other(request: pytest.FixtureRequest, kind: str, cluster: Slurm, tmp_path: Path) -> Iterator[SlurmClient]:
    if (kind == "rest") != bool(request.param):
        pytest.skip("versions are slurmrestd's")
    if kind == "rest":
        token = tmp_path / "token"
        put_secret(token, cluster.token(3600))
        yield RestClient(test_rest_client.way(cluster, token), limit_s=20, versions=(request.param,))
        return
    python = request.getfixturevalue("python")
    client = NativeClient(
        Way(kind="native", prefix=cluster.prefix, conf=str(cluster.conf), python=python), limit_s=20
    )
    yield client
    client.close()


python = test_native_client.python


def shown(cluster: Slurm, job_id: int) -> dict[str, str]:
    """Return what Slurm says that was asked for."""
    text = cluster.run("scontrol", "show", "job", str(job_id))
    pairs = re.findall(r"(?:^|\s)([A-Za-z/:]+)=(\S*)", text)
    return {name: value for name, value in pairs if not OWN.fullmatch(name)}


@pytest.mark.parametrize("name", NAMES)
def test_the_job_is_the_same(
    name: str, other: SlurmClient, cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env()["SLURM_CONF"])
    spec = SPECS[name]
    while True:
        second = here(spec, tmp_path)
        try:
            theirs = other.submit(render(second), second)
            break
        except BadDirective as error:  # a directive that this client has no words for: the same without it
            assert error.field.startswith("extra."), error
            spec = replace(spec, extra=tuple(one for one in spec.extra if f"extra.{one[0]}" != error.field))
        except NoAnswer as error:
            if "and Berth speaks" in str(error):
                pytest.skip(str(error))
            raise
    first = here(spec, tmp_path)
    ours = CliClient(limit_s=20).submit(render(first), first)
    assert shown(cluster, theirs) == shown(cluster, ours)


def test_what_is_compared_is_what_was_asked_for(
    cluster: Slurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_CONF", cluster.env()["SLURM_CONF"])
    spec = here(SPECS["gpus_per_node"], tmp_path)
    said = shown(cluster, CliClient(limit_s=20).submit(render(spec), spec))
    assert {"Features", "Licenses", "Reservation", "ExcNodeList", "Requeue"} <= set(said), said
    assert said["Reservation"] == RESERVATION
