"""The nodes of the private cluster are hosts: what works only because everything is one machine fails here."""

from __future__ import annotations

import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import apt, checkout, hosts
from devstack.procs import wait_until
from devstack.say import SILENT
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.skipif(hosts.why_not() != "", reason=f"no hosts of their own: {hosts.why_not()}"),
]

# Answers every connection to any port and address of its host with one line.
LISTEN = """
import socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True)
while True:
    link, _ = server.accept()
    link.sendall(b"here")
    link.close()
"""


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    apt.install(apt.FIREWALL, SILENT, checkout.cache_dir() / "apt.log")
    with Slurm(tmp_path_factory.mktemp("slurm"), SlurmSpec(nodes=2, sched_interval_s=1)) as slurm:
        yield slurm


def on_node(slurm: Slurm, node: str, script: str, folder: Path) -> list[str]:
    """Runs a shell script as a job on that node; its lines, once it has ended."""
    out = folder / f"{node}.out"
    argv = ["sbatch", "--wait", "--export=SLURM_CONF", "--chdir=/", f"--nodelist={node}", f"--output={out}"]
    slurm.run(*argv, "--gres=gpu:a100:2", f"--wrap=PATH={apt.SERVER_PATH}\n{script}", timeout_s=90)
    return out.read_text().splitlines()


@pytest.fixture
def listening(cluster: Slurm) -> Iterator[int]:
    """The port of a server on gpu02."""
    port = 20_500
    argv = [*cluster.hosts.enter("gpu02"), sys.executable, "-c", LISTEN, str(port)]
    with subprocess.Popen(argv) as server:
        assert wait_until(lambda: reached(cluster.hosts["gpu02"].address, port) == "here", 30)
        yield port
        cluster.hosts.mend("gpu02")
        server.kill()


def reached(address: str, port: int, timeout_s: float = 1.0) -> str:
    """What a connection from the machine ends with."""
    try:
        with socket.create_connection((address, port), timeout=timeout_s) as link:
            return link.recv(10).decode()
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return str(error)


def from_node(slurm: Slurm, node: str, address: str, port: int) -> str:
    """What a connection from that node ends with."""
    code = "import sys; from tests.slurm.test_hosts import reached; print(reached(sys.argv[1], int(sys.argv[2])))"
    env = f"PYTHONPATH={checkout.ROOT}:{checkout.ROOT / 'bin'}"
    return slurm.hosts.run(node, "env", env, sys.executable, "-c", code, address, str(port)).strip()


def test_a_job_has_its_hosts_name_address_and_tmp_and_gpus_like_a_real_one(
    cluster: Slurm, tmp_path: Path
) -> None:
    script = "cat /proc/sys/kernel/hostname; ls /tmp | wc -l; echo $$ > /tmp/mine; ip -br -4 addr show eth0"
    script += "; echo $CUDA_VISIBLE_DEVICES; echo $SLURM_JOB_GPUS; cut -d' ' -f1 /etc/hosts | tail -2"
    for node in ("gpu01", "gpu02"):
        name, files, link, visible, given, *known = on_node(cluster, node, script, tmp_path)
        host = cluster.hosts[node]
        assert (name, files) == (node, "0")
        assert f" {host.address}/24" in link
        assert (visible, given) == ("0,1", "0,1")
        assert known == [cluster.hosts["gpu01"].address, cluster.hosts["gpu02"].address]
        assert [path.name for path in host.tmp.iterdir()] == ["mine"]
    assert cluster.hosts["gpu01"].address != cluster.hosts["gpu02"].address
    assert not Path("/tmp/mine").exists()
