"""The private cluster of the development stack is a real Slurm: it schedules, fails and stops like one."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from devstack import checkout, ports, proctable
from devstack import slurm as slurm_module
from devstack.procs import wait_until
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
from devstack.slurmfolder import loopback_address

pytestmark = pytest.mark.slurm

QUICK = SlurmSpec(nodes=2, sched_interval_s=1, kill_wait_s=2)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    with Slurm(tmp_path_factory.mktemp("slurm"), QUICK) as slurm:
        yield slurm


def submit(slurm: Slurm, script: str, *options: str) -> int:
    """Submit with --export=SLURM_CONF: NONE would run the user's log-in shell first, which takes seconds."""
    argv = ["sbatch", "--parsable", "--export=SLURM_CONF", "--chdir=/tmp", *options, f"--wrap={script}"]
    return int(slurm.run(*argv))


def state(slurm: Slurm, job: int) -> str:
    return slurm.run("squeue", "-h", "-a", "-t", "all", "-j", str(job), "-o", "%T").strip()


def reaches(slurm: Slurm, job: int, *states: str, timeout_s: float = 90) -> bool:
    return wait_until(lambda: state(slurm, job) in states, timeout_s)


def processes_of(slurm: Slurm) -> set[int]:
    """Find everything alive that knows this cluster: daemons, steps and jobs carry its SLURM_CONF.

    From 24.11 on a step's keeper does not, and is known by its socket.
    """
    found = proctable.with_environment("SLURM_CONF", str(slurm.conf))
    found |= proctable.keepers(str(slurm.conf.parent))
    return {pid for pid in found if proctable.start_ticks(pid) is not None}


def test_a_job_gets_gpus_of_a_virtual_node(cluster: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "out"
    script = "echo $SLURMD_NODENAME $SLURM_GPUS_ON_NODE; scontrol show job $SLURM_JOB_ID -d"
    job = submit(cluster, script, "--gres=gpu:a100:3", "-o", str(out))
    assert reaches(cluster, job, "COMPLETED")
    assert out.read_text().splitlines()[0] in ("gpu01 3", "gpu02 3")
    assert "gpu:a100:3(IDX:0-2)" in out.read_text()


def test_more_gpus_than_a_node_has_are_refused(cluster: Slurm) -> None:
    done = subprocess.run(
        ["sbatch", "--gres=gpu:a100:5", "--wrap=true"],
        env={**os.environ, **cluster.env()},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0
    assert "Requested node configuration is not available" in done.stderr


def is_own_address(address: str) -> bool:
    """Tell whether some interface of this machine has the address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def test_all_daemons_on_one_host_listen_on_loopback_only_where_its_name_allows_it(tmp_path: Path) -> None:
    with Slurm(tmp_path / "here", replace(QUICK, one_host=True)) as here:
        if loopback_address(socket.gethostname()) is None:
            assert "InAddrAny" not in here.conf.read_text()
            return
        _listen_on_loopback(processes_of(here))


def _listen_on_loopback(daemons: set[int]) -> None:
    listening = subprocess.run(["ss", "-ltnpH"], capture_output=True, text=True, check=True).stdout
    addresses = [
        line.split()[3] for line in listening.splitlines() if any(f"pid={pid}," in line for pid in daemons)
    ]
    assert len(addresses) >= 3
    assert all(address.startswith("127.") for address in addresses)


def test_two_clusters_at_once_know_nothing_of_each_other(cluster: Slurm, tmp_path: Path) -> None:
    with Slurm(tmp_path / "other", QUICK) as other:
        mine = submit(cluster, "sleep 60")
        theirs = submit(other, "sleep 60", "--job-name=theirs")
        assert reaches(cluster, mine, "RUNNING")
        assert reaches(other, theirs, "RUNNING")
        assert "theirs" not in cluster.run("squeue", "-h", "-o", "%j")
    assert state(cluster, mine) == "RUNNING"
    cluster.run("scancel", str(mine))


def test_a_restarted_controller_still_knows_the_running_job(cluster: Slurm) -> None:
    job = submit(cluster, "sleep 120")
    assert reaches(cluster, job, "RUNNING")
    before = cluster.controller_pid
    cluster.stop_controller()
    assert proctable.start_ticks(before) is None
    cluster.start_controller()
    assert cluster.controller_pid != before
    assert state(cluster, job) == "RUNNING"
    cluster.run("scancel", str(job))


def test_a_lost_node_takes_its_job_and_its_processes_along(cluster: Slurm, tmp_path: Path) -> None:
    out = tmp_path / "pid"
    job = submit(cluster, f"echo $$ > {out}; sleep 120", "--nodelist=gpu02", "--no-requeue")
    assert wait_until(lambda: out.exists() and out.read_text().strip() != "", 60)
    cluster.node_down("gpu02")
    try:
        assert reaches(cluster, job, "NODE_FAIL")
        assert proctable.start_ticks(int(out.read_text())) is None
    finally:
        cluster.node_up("gpu02")
    assert wait_until(lambda: "gpu02 idle" in cluster.run("sinfo", "-h", "-N", "-o", "%N %t"), 90)


def test_the_spare_partition_gives_way(tmp_path: Path) -> None:
    with Slurm(tmp_path / "preempting", SlurmSpec(nodes=1, preemption=True, sched_interval_s=1)) as slurm:
        filler = submit(slurm, "sleep 120", "--partition=spare", "--gres=gpu:a100:4")
        assert reaches(slurm, filler, "RUNNING")
        wanted = submit(slurm, "sleep 120", "--gres=gpu:a100:4")
        assert reaches(slurm, wanted, "RUNNING")
        assert reaches(slurm, filler, "PREEMPTED", "CANCELLED")  # COMPLETING before that


def test_stopping_leaves_no_process_even_of_a_job_that_refuses(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slurm_module, "POLITE_S", 2.0)
    slurm = Slurm(tmp_path / "stopping", SlurmSpec(nodes=1, sched_interval_s=1, kill_wait_s=60)).start()
    job = submit(slurm, "trap '' TERM; sleep 600 & setsid sleep 601 & while :; do wait; done")
    assert reaches(slurm, job, "RUNNING")
    port = int(slurm.run("scontrol", "show", "config").split("SlurmctldPort")[1].split()[1])
    one_host = slurm.why_one_host != ""
    assert ports.accepts(port, address="127.0.0.1" if one_host else slurm.hosts.controller.address)
    machine = slurm.portal_addresses[0]
    assert wait_until(lambda: len(processes_of(slurm)) >= 7, 60)
    slurm.stop()
    assert processes_of(slurm) == set()
    # With the hosts their network is gone, too; on one host the port is free again.
    assert not ports.accepts(port) if one_host else not is_own_address(machine)


def test_job_ids_are_not_used_again_after_a_restart(tmp_path: Path) -> None:
    first = Slurm(tmp_path / "again", SlurmSpec(nodes=1))
    with first:
        before = submit(first, "true")
    with Slurm(tmp_path / "again", SlurmSpec(nodes=1)) as second:
        assert submit(second, "true") > before
        assert str(before) not in second.run("squeue", "-h", "-a", "-t", "all", "-o", "%A").split()


OWNER = """
import sys
from pathlib import Path
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
slurm = Slurm(Path(sys.argv[1]), SlurmSpec(nodes=1, sched_interval_s=1)).start()
slurm.run("sbatch", "--export=SLURM_CONF", "--chdir=/tmp", f"--wrap=echo $$ > {sys.argv[2]}; sleep 600")
print(slurm.conf, flush=True)
sys.stdin.read()
"""


def test_kill_9_of_the_program_that_started_it_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "pid"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path / "orphaned"), str(out)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT / "bin")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        conf = owner.stdout.readline().strip()
        assert wait_until(lambda: out.exists() and out.read_text().strip() != "", 60)
        owner.send_signal(signal.SIGKILL)
        owner.wait()

    def all_gone() -> bool:
        return all(
            proctable.start_ticks(pid) is None for pid in proctable.with_environment("SLURM_CONF", conf)
        )

    assert wait_until(all_gone, 60)
    assert proctable.start_ticks(int(out.read_text())) is None


def test_a_jobs_process_that_escaped_its_step_ends_with_the_cluster(tmp_path: Path) -> None:
    out = tmp_path / "pid"
    with Slurm(tmp_path / "escaped", SlurmSpec(nodes=1, sched_interval_s=1)) as slurm:
        # Left behind by a step that was killed: an orphan in a session of its own, with nothing but its variables.
        escaped = subprocess.Popen(
            ["sh", "-c", f"setsid sleep 600 & echo $! > {out}"],
            env={"PATH": os.environ["PATH"], **slurm.env(), "SLURM_JOB_ID": "1"},
        )
        escaped.wait()
        shell = subprocess.Popen(["sleep", "600"], env={"PATH": os.environ["PATH"], **slurm.env()})
    try:
        assert proctable.start_ticks(int(out.read_text())) is None
        assert shell.poll() is None  # a person's shell with SLURM_CONF exported is no job
    finally:
        shell.kill()
        shell.wait()
