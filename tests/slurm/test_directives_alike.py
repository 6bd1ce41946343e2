"""The table of directives, run: a job that slurmrestd or pyslurm submits asks Slurm for what sbatch's asks for.

Two jobs of one spec, one of each client, and what `scontrol show job` tells them apart by must be nothing but who they
are. Nodes are drained, so that no job runs.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from devstack import pyslurm, slurmrestd, trees
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from scheduler.slurm.cli import CliClient
from scheduler.slurm.directives import BadDirective
from scheduler.slurm.native import NativeClient
from scheduler.slurm.protocol import Rejected, SlurmClient
from scheduler.slurm.render import render
from scheduler.slurm.rest import RestClient
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way
from tests.slurm.contract import make_spec

pytestmark = pytest.mark.slurm

# What differs between any two jobs, or says through which program one came. sbatch alone writes down -c a second time, as
# TresPerTask, which says nothing more where a node has one task; and only sbatch leaves OOMKillStep to the site.
_OWN = {
    *(
        "JobId",
        "JobName",
        "Priority",
        "SubmitTime",
        "EligibleTime",
        "AccrueTime",
        "StartTime",
        "EndTime",
        "Deadline",
    ),
    *(
        "LastSchedEval",
        "Scheduler",
        "AllocNode:Sid",
        "Command",
        "SubmitLine",
        "StdOut",
        "StdErr",
        "StdIn",
        "Reason",
    ),
    *("Power", "SLUID", "TresPerTask", "OOMKillStep"),
}
_FIELD = re.compile(r"(?:^|\s)([A-Za-z][A-Za-z:/]*)=(.*?)(?=\s+[A-Za-z][A-Za-z:/]*=|$)")
CHANGES: dict[str, dict[str, Any]] = {
    "base": {},
    "two nodes": {"nodes": 2},
    "no least time": {"least_limit_min": 0},
    "no memory": {"mem_mb": 0},
    "memory per GPU": {"mem_mb": 0, "mem_per_gpu_mb": 500},
    "GPUs per node": {"gres": "", "gpus_per_node": "a100:2"},
    "no GPUs": {"gres": ""},
    "any GPUs": {"gres": "gpu:2"},
    "features": {"constraint": "a100&nvlink"},
    "reservation": {"reservation": "work"},
    "licences": {"licenses": "ansys:2"},
    "exclusive": {"exclusive": "node"},
    "exclusive to a user": {"exclusive": "user"},
    "nice": {"nice": 100},
    "exclude": {"exclude": "gpu02"},
    "two partitions": {"partition": "gpu,long"},
    "no signal": {"signal_s": 0},
    "comment": {"extra": (("comment", "for-the-lab"),)},
    "contiguous": {"extra": (("contiguous", ""),)},
    "core-spec": {"exclusive": "node", "extra": (("core-spec", "1"),)},
    "cores-per-socket": {"extra": (("cores-per-socket", "1"),)},
    "gres-flags": {"extra": (("gres-flags", "enforce-binding"),)},
    "gres-flags, off": {"extra": (("gres-flags", "disable-binding"),)},
    "gpu-bind": {"extra": (("gpu-bind", "closest"),)},
    "gpu-freq": {"extra": (("gpu-freq", "medium"),)},
    "hint": {"extra": (("hint", "nomultithread"),)},
    "acctg-freq": {"extra": (("acctg-freq", "30"),)},
    "mail-type": {"extra": (("mail-type", "NONE"),)},
    "mincpus": {"extra": (("mincpus", "2"),)},
    "network": {"extra": (("network", "verbs"),)},
    "prefer": {"extra": (("prefer", "nvlink"),)},
    "sockets-per-node": {"extra": (("sockets-per-node", "1"),)},
    "switches": {"extra": (("switches", "1"),)},
    "switches, for a while": {"extra": (("switches", "1@10"),)},
    "thread-spec": {"exclusive": "node", "extra": (("thread-spec", "1"),)},
    "threads-per-core": {"extra": (("threads-per-core", "1"),)},
    "tmp": {"extra": (("tmp", "1G"),)},
    "cpu-freq": {"extra": (("cpu-freq", "medium"),)},
}


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    if trees.chosen() is None or slurmrestd.refusal():
        pytest.skip("only Slurm's commands speak to 22.05: run bin/test --slurm trixie or testing")
    nodes = "Nodes=ALL MaxTime=240 DefaultTime=30 State=UP"
    parts = (f"PartitionName=gpu Default=YES {nodes}", f"PartitionName=long {nodes}")
    extra = ("Licenses=ansys:4", "AllowSpecResourcesUsage=YES", "PrivateData=none")
    spec = SlurmSpec(nodes=2, sched_interval_s=1, rest=True, partitions=parts, extra=extra)
    with Slurm(tmp_path_factory.mktemp("slurm"), spec) as slurm:
        for node in spec.node_names:
            features = "a100,nvlink"
            slurm.run("scontrol", "update", f"NodeName={node}", f"AvailableFeatures={features}")
            slurm.run("scontrol", "update", f"NodeName={node}", "State=DRAIN", "Reason=test")
        when = ("StartTime=now", "Duration=120", "Users=root", "Nodes=ALL", "Flags=IGNORE_JOBS")
        slurm.run("scontrol", "create", "reservation", "ReservationName=work", *when)
        yield slurm


@pytest.fixture(scope="module")
def sbatch(cluster: Slurm) -> CliClient:
    return CliClient(cluster.prefix, limit_s=15)


@pytest.fixture(scope="module", params=["v0.0.42", "v0.0.40", "native"])
def other(
    request: pytest.FixtureRequest, cluster: Slurm, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[SlurmClient]:
    tree = trees.chosen()
    assert tree is not None
    if request.param == "native":
        if why := pyslurm.refusal(tree):
            pytest.skip(why)
        python = pyslurm.ensure(tree, Progress())
        way = Way(kind="native", prefix=cluster.prefix, conf=str(cluster.conf), python=python)
        native = NativeClient(way, limit_s=15)
        yield native
        native.close()
        return
    token = tmp_path_factory.mktemp("token") / "token"
    token.write_text(cluster.token(3600))
    way = Way(kind="rest", address=cluster.rest_url, token_file=str(token))
    if request.param == "v0.0.40" and cluster.tree is not None and cluster.tree.slurm > (25, 5):
        pytest.skip("this release does not serve v0.0.40")
    yield RestClient(way, limit_s=15, versions=(request.param,))


def shown(cluster: Slurm, client: SlurmClient, spec: JobSpec) -> set[str] | str:
    """What Slurm says of a job of this spec; a text where it refuses it."""
    try:
        job_id = client.submit(render(spec), spec)
    except Rejected as error:
        return f"refused: {error.reason}"
    text = cluster.run("scontrol", "show", "job", "-d", str(job_id))
    client.cancel([job_id])
    return {f"{key}={value}" for key, value in _FIELD.findall(" ".join(text.split())) if key not in _OWN}


@pytest.mark.parametrize("name", CHANGES)
def test_a_job_asks_for_the_same_through_each_client(
    name: str, cluster: Slurm, sbatch: CliClient, other: SlurmClient, tmp_path: Path
) -> None:
    spec = replace(make_spec(tmp_path), **CHANGES[name])
    ours = shown(cluster, sbatch, spec)
    try:
        theirs = shown(cluster, other, spec)
    except BadDirective as error:
        assert "has no words for" in str(error)
        return
    if os.environ.get("SLURM_SHOW"):
        print(name, ours)
    if isinstance(ours, str) or isinstance(theirs, str):
        assert ours == theirs
        return
    assert ours == theirs, f"sbatch: {sorted(ours - theirs)}, other: {sorted(theirs - ours)}"
