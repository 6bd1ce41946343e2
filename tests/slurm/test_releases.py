"""Private clusters of other releases of Slurm: beside each other, reached from outside, gone without a trace."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import checkout, proctable, pyslurm, slurmrestd, trees
from devstack import slurm as slurm_module
from devstack.procs import wait_until
from devstack.say import Progress, StepFailed
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
from devstack.slurmrestd import Slurmrestd

from tests.slurm import releases

pytestmark = pytest.mark.slurm
QUICK = SlurmSpec(nodes=1, sched_interval_s=1, kill_wait_s=2, rest=True)


@pytest.fixture(scope="module", params=releases.SUITES)
def cluster(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    tree = releases.tree(request.param)
    with Slurm(tmp_path_factory.mktemp("slurm") / "slurm", QUICK, tree=tree) as slurm:
        yield slurm


def inside(slurm: Slurm, program: str) -> str:
    """Return what a shell program prints where the cluster's commands are."""
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
    # This machine's own, unless the whole run is of the cluster's release.
    others = [suite for suite in releases.SUITES if trees.TREES[suite] is not cluster.tree]
    tree = releases.tree(others[0]) if trees.chosen() is cluster.tree else None
    with Slurm(tmp_path / "own" / "slurm", SlurmSpec(nodes=1, sched_interval_s=1), tree) as own:
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


def test_who_cannot_have_slurmrestd_is_told_before_anything_starts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurmrestd, "refusal", lambda: "only root can start both")
    with pytest.raises(StepFailed, match="only root"):
        Slurm(tmp_path / "slurm", QUICK).start()
    assert not (tmp_path / "slurm").exists()


def test_a_cluster_without_slurmrestd_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(StepFailed) as failed:
        print(Slurm(tmp_path / "slurm", SlurmSpec()).rest_url)
    assert "rest=True" in failed.value.remedy


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


STUBBORN = "trap '' TERM; env -i sleep 600 & env -i setsid sleep 601 & while :; do wait; done"


def keeper_and_below(folder: Path) -> dict[int, int]:
    """Find the one keeper of a job that runs STUBBORN, and all below it; return when each started."""
    found: set[int] = set()

    def complete() -> bool:
        keepers = proctable.keepers(str(folder))
        found.clear()
        found.update(keepers | proctable.descendants(keepers))
        return [proctable.name(pid) for pid in found].count("sleep") == 2

    assert wait_until(complete, 60)
    return {pid: proctable.start_ticks(pid) or 0 for pid in found}


def left(found: dict[int, int]) -> set[int]:
    return {pid for pid, ticks in found.items() if proctable.start_ticks(pid) == ticks}


@pytest.fixture(params=releases.SUITES)
def stubborn(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Slurm]:
    """Start a cluster with a job that does not end when it is told to, and whose processes bear no mark of
    ours."""
    monkeypatch.setattr(slurm_module, "POLITE_S", 1.0)
    spec = dataclasses.replace(QUICK, kill_wait_s=60)
    with Slurm(tmp_path / "slurm", spec, releases.tree(request.param)) as slurm:
        submit(slurm, STUBBORN, "--no-requeue")
        yield slurm


def test_stopping_leaves_nothing_of_a_job_whose_keeper_bears_no_mark(stubborn: Slurm) -> None:
    found = keeper_and_below(stubborn.conf.parent)
    assert not proctable.with_environment(proctable.MARK, "", prefix=True) & set(found), "nothing new here"
    rest = Slurmrestd.folder_of(stubborn.conf.parent)
    stubborn.stop()
    assert left(found) == set()
    assert not rest.exists()


def test_a_lost_node_takes_the_keeper_along(stubborn: Slurm) -> None:
    found = keeper_and_below(stubborn.conf.parent)
    stubborn.node_down("gpu01")
    assert left(found) == set()
    stubborn.node_up("gpu01")


OWNER = """
import sys
from pathlib import Path
from devstack import trees
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
spec = SlurmSpec(nodes=1, sched_interval_s=1, kill_wait_s=60)
slurm = Slurm(Path(sys.argv[1]), spec, trees.TREES[sys.argv[2]]).start()
slurm.run("sbatch", "--export=NIL", "--chdir=/tmp", "--output=/dev/null", f"--wrap={sys.argv[3]}")
print(slurm.conf, flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("suite", releases.SUITES)
def test_kill_9_of_the_program_that_started_it_leaves_no_keeper(suite: str, tmp_path: Path) -> None:
    releases.tree(suite)
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "orphaned"), suite, STUBBORN],
        env={**os.environ, "PYTHONPATH": str(checkout.ROOT / "bin")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None and owner.stdout is not None
    with owner.stdin, owner.stdout:
        folder = Path(owner.stdout.readline().strip()).parent
        found = keeper_and_below(folder)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert wait_until(lambda: left(found) == set() and not proctable.keepers(str(folder)), 60), left(found)
