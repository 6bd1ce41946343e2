"""Private clusters of other releases of Slurm: beside each other, reached from outside, gone without a trace."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import pyslurm
from devstack.procs import wait_until
from devstack.say import Progress, StepFailed
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

from tests.slurm import releases

pytestmark = pytest.mark.slurm
QUICK = SlurmSpec(nodes=1, sched_interval_s=1, kill_wait_s=2, rest=True)


@pytest.fixture(scope="module", params=releases.SUITES)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    tree = releases.tree(request.param)
    with Slurm(tmp_path_factory.mktemp("slurm") / "slurm", QUICK, tree=tree) as slurm:
        yield slurm


def inside(slurm: Slurm, program: str) -> str:
    """What a shell program says where the cluster's commands are."""
    argv = [*slurm.prefix, "sh", "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, cwd="/", timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def submit(slurm: Slurm, script: str, *options: str) -> int:
    argv = ["sbatch", "--parsable", "--export=NIL", "--chdir=/tmp", "--output=/dev/null", *options]
    return int(slurm.run(*argv, f"--wrap={script}"))


def reaches(slurm: Slurm, job: int, state: str) -> bool:
    listing = ("squeue", "-h", "-a", "-t", "all", "-j", str(job), "-o", "%T")
    return wait_until(lambda: slurm.run(*listing).strip() == state, 90)


def ask(slurm: Slurm, path: str, token: str) -> tuple[int, dict[str, object]]:
    headers = {"X-SLURM-USER-NAME": "root", "X-SLURM-USER-TOKEN": token}
    request = urllib.request.Request(f"{slurm.rest_url}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, {"said": error.read().decode(errors="replace")}


def test_its_commands_are_of_the_trees_release_and_the_rest_is_this_machine(
    cluster: Slurm, tmp_path: Path
) -> None:
    assert cluster.tree is not None
    major, minor = cluster.tree.release()
    assert f"{major}.{minor:02}." in inside(cluster, "sbatch --version")
    assert "UP" in inside(cluster, "scontrol ping")
    (tmp_path / "seen").write_text("yes\n")
    assert inside(cluster, f"cat {tmp_path}/seen; id -u; hostname").split() == [
        "yes",
        "0",
        os.uname().nodename,
    ]


def test_a_job_of_it_gets_the_devices_of_a_node(cluster: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    job = submit(cluster, "env", f"--output={out}", "--gres=gpu:a100:2")
    assert reaches(cluster, job, "COMPLETED")
    assert "CUDA_VISIBLE_DEVICES=0,1" in out.read_text().splitlines()


def test_two_releases_stand_side_by_side(cluster: Slurm, tmp_path: Path) -> None:
    with Slurm(tmp_path / "own" / "slurm", SlurmSpec(nodes=1, sched_interval_s=1)) as own:
        mine, theirs = submit_plain(own, "sleep 60"), submit(cluster, "sleep 60")
        assert reaches(own, mine, "RUNNING")
        assert reaches(cluster, theirs, "RUNNING")
        assert inside(own, "sbatch --version") != inside(cluster, "sbatch --version")
    assert reaches(cluster, theirs, "RUNNING")
    cluster.run("scancel", str(theirs))


def submit_plain(slurm: Slurm, script: str) -> int:
    argv = ["sbatch", "--parsable", "--export=SLURM_CONF", "--chdir=/tmp", "--output=/dev/null"]
    return int(slurm.run(*argv, f"--wrap={script}"))


def test_slurmrestd_answers_whoever_has_a_token_as_an_unprivileged_user(cluster: Slurm) -> None:
    status, answer = ask(cluster, "/slurm/v0.0.42/partitions/", cluster.token(60))
    assert status == 200 and answer["errors"] == []
    assert [part["name"] for part in answer["partitions"]] == ["gpu"]  # type: ignore[attr-defined]
    status, answer = ask(cluster, "/slurm/v0.0.42/partitions/", "no.such.token")
    assert status != 200 or answer["errors"] != []
    assert Path(f"/proc/{cluster.rest.pid}").stat().st_uid not in (0, os.getuid())


def test_slurmrestd_comes_back_at_its_address(cluster: Slurm) -> None:
    token = cluster.token(600)
    cluster.rest.stop()
    with pytest.raises(OSError):
        ask(cluster, "/slurm/v0.0.42/ping/", token)
    cluster.rest.start()
    assert ask(cluster, "/slurm/v0.0.42/ping/", token)[0] == 200


def test_pyslurm_is_there_or_says_why_not(cluster: Slurm) -> None:
    assert cluster.tree is not None
    if why := pyslurm.refusal(cluster.tree):
        assert cluster.tree.suite in why
        with pytest.raises(StepFailed):
            pyslurm.ensure(cluster.tree, Progress())
        return
    python = pyslurm.ensure(cluster.tree, Progress())
    said = inside(cluster, f"{python} -c 'import pyslurm; print(*pyslurm.Partitions.load())'")
    assert said.strip() == "gpu"
