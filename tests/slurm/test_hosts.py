"""The nodes of the private cluster are hosts: what works only because everything is one machine fails here."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from devstack import apt, checkout, hosts, proctable
from devstack.procs import wait_until
from devstack.say import SILENT
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
from devstack.testing import clean_dead_runs

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
    """Run a shell script as a job on that node; return its lines, once it has ended."""
    out = folder / f"{node}.out"
    argv = [
        "sbatch",
        "--parsable",
        "--export=SLURM_CONF",
        "--chdir=/",
        f"--nodelist={node}",
        f"--output={out}",
    ]
    job = slurm.run(*argv, "--gres=gpu:a100:2", f"--wrap=PATH={apt.SERVER_PATH}\n{script}").strip()
    listing = ("squeue", "-h", "-t", "all", "-j", job, "-o", "%T")
    assert wait_until(lambda: slurm.run(*listing).strip() == "COMPLETED", 90)
    return out.read_text().splitlines()


@pytest.fixture
def listening(cluster: Slurm) -> Iterator[int]:
    """Give the port of a server on gpu02."""
    port = 20_500
    argv = [*cluster.hosts.enter("gpu02"), sys.executable, "-c", LISTEN, str(port)]
    with subprocess.Popen(argv) as server:
        assert wait_until(lambda: reached(cluster.hosts["gpu02"].address, port) == "here", 30)
        yield port
        cluster.hosts.mend("gpu02")
        server.kill()


def reached(address: str, port: int, timeout_s: float = 1.0) -> str:
    """Return what a connection from the machine ends with.

    That is a word of the server's, "open" where it has none, or the error.
    """
    try:
        link = socket.create_connection((address, port), timeout=timeout_s)
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return "silence"
    except OSError as error:
        return str(error)
    with link:
        try:
            return link.recv(10).decode()
        except TimeoutError:
            return "open"


def from_node(slurm: Slurm, node: str, address: str, port: int) -> str:
    """Return what a connection from that node ends with."""
    code = "import sys; from tests.slurm.test_hosts import reached; print(reached(sys.argv[1], int(sys.argv[2])))"
    env = f"PYTHONPATH={checkout.ROOT}:{checkout.ROOT / 'bin'}"
    return slurm.hosts.run(node, "env", env, sys.executable, "-c", code, address, str(port)).strip()


def test_a_job_has_its_hosts_name_address_and_tmp_and_gpus_like_a_real_one(
    cluster: Slurm, tmp_path: Path
) -> None:
    with tempfile.NamedTemporaryFile(dir="/tmp") as ours:
        script = f"cat /proc/sys/kernel/hostname; test -e {ours.name}; echo $?; test -e /tmp/mine; echo $?"
        script += (
            "; touch /tmp/mine; ip -br -4 addr show eth0; echo $CUDA_VISIBLE_DEVICES; echo $SLURM_JOB_GPUS"
        )
        script += "; cut -d' ' -f1 /etc/hosts | tail -2"
        for node in ("gpu01", "gpu02"):
            name, machines, others, link, visible, given, *known = on_node(cluster, node, script, tmp_path)
            host = cluster.hosts[node]
            assert (name, machines, others) == (node, "1", "1"), "neither sees the other's files in /tmp"
            assert f" {host.address}/24" in link
            assert (visible, given) == ("0,1", "0,1")
            assert known == [cluster.hosts["gpu01"].address, cluster.hosts["gpu02"].address]
            assert (host.tmp / "mine").exists()
    assert cluster.hosts["gpu01"].address != cluster.hosts["gpu02"].address
    assert not Path("/tmp/mine").exists()


def test_hosts_reach_each_other_and_the_machine_over_ipv4_and_ipv6(cluster: Slurm, listening: int) -> None:
    far = cluster.hosts["gpu02"]
    addresses = [address for address in (far.address, far.address6) if address]
    assert len(addresses) == (2 if hosts.has_ipv6() else 1)
    for address in addresses:
        assert reached(address, listening) == "here"
        assert from_node(cluster, "gpu01", address, listening) == "here"
    assert from_node(cluster, "gpu01", "gpu02", listening) == "here", "a node knows the others by name"
    for address in cluster.portal_addresses:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.create_server((address, 0), family=family) as server:
            assert from_node(cluster, "gpu01", address, server.getsockname()[1]) == "open"


def test_what_listens_on_loopback_is_reached_from_its_own_host_only(cluster: Slurm, listening: int) -> None:
    assert from_node(cluster, "gpu02", "127.0.0.1", listening) == "here"
    assert reached("127.0.0.1", listening) == "refused"
    assert from_node(cluster, "gpu01", "127.0.0.1", listening) == "refused"
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        for address in ("127.0.0.1", cluster.portal_addresses[0]):
            assert from_node(cluster, "gpu01", address, port) == "refused"


def test_a_host_that_is_cut_off_is_silent_until_it_is_mended(cluster: Slurm, listening: int) -> None:
    address = cluster.hosts["gpu02"].address
    with socket.create_connection((address, listening)) as link:
        assert link.recv(4) == b"here"
    cluster.hosts.cut("gpu02")
    assert reached(address, listening) in ("silence", "[Errno 113] No route to host")
    assert from_node(cluster, "gpu01", address, listening) in ("silence", "[Errno 113] No route to host")
    cluster.hosts.mend("gpu02")
    assert wait_until(lambda: reached(address, listening) == "here", 30)


@pytest.mark.parametrize(("refuse", "ends"), [(False, "silence"), (True, "refused")])
def test_the_portal_can_be_kept_from_a_node_that_still_reaches_it(
    cluster: Slurm, listening: int, refuse: bool, ends: str
) -> None:
    far = cluster.hosts["gpu02"]
    cluster.hosts.close_to_portal("gpu02", refuse=refuse)
    for address in (far.address, far.address6):
        assert not address or reached(address, listening) == ends
    with socket.create_server((cluster.portal_addresses[0], 0)) as server:
        port = server.getsockname()[1]
        assert from_node(cluster, "gpu02", cluster.portal_addresses[0], port) == "open"
    assert from_node(cluster, "gpu01", far.address, listening) == "here", "other hosts are not kept out"
    assert cluster.run("sinfo", "-h", "-n", "gpu02", "-o", "%t").strip() in ("idle", "mix", "alloc")
    cluster.hosts.mend("gpu02")
    assert reached(far.address, listening) == "here"


def test_a_range_of_ports_may_stay_open(cluster: Slurm, listening: int) -> None:
    address = cluster.hosts["gpu02"].address
    cluster.hosts.close_to_portal("gpu02", allow=(listening - 10, listening))
    assert reached(address, listening) == "here"
    cluster.hosts.close_to_portal("gpu02", allow=(listening + 1, listening + 10))
    assert reached(address, listening) == "silence"


def test_a_second_interface_reaches_nobody(cluster: Slurm, listening: int) -> None:
    lone = cluster.hosts.add_lone_interface("gpu02")
    assert from_node(cluster, "gpu02", lone, listening) == "here"
    assert from_node(cluster, "gpu01", lone, listening) not in ("here", "refused")


OWNER = """
import sys
from pathlib import Path
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec
slurm = Slurm(Path(sys.argv[1]), SlurmSpec(nodes=2, sched_interval_s=1)).start()
print(slurm.portal_addresses[0], flush=True)
sys.stdin.read()
"""


def is_own_address(address: str) -> bool:
    """Tell whether some interface of this machine has the address."""
    with socket.socket() as probe:
        try:
            probe.bind((address, 0))
        except OSError:
            return False
    return True


def networks(pids: set[int]) -> set[str]:
    """Return the network namespaces that these processes are in."""
    found = set()
    for pid in pids:
        try:
            found.add(str(Path(f"/proc/{pid}/ns/net").readlink()))
        except OSError:
            continue
    return found


@pytest.mark.parametrize("leash", [True, False])
def test_kill_9_of_the_program_that_made_them_leaves_no_host_and_no_interface(
    tmp_path: Path, leash: bool
) -> None:
    """Its leash ends them; where that was killed as well, the next run does."""
    folder = tmp_path / "runs" / "killed" / "slurm"
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(folder)],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT / "bin")},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert owner.stdin is not None
    assert owner.stdout is not None
    with owner.stdin, owner.stdout:
        machine = owner.stdout.readline().strip()
        ours = proctable.with_environment(proctable.MARK, f"{folder.resolve()}#", prefix=True)
        made = networks(ours) - networks({os.getpid()})
        assert len(made) == 4  # the switch's, the controller's and two nodes'
        assert is_own_address(machine)
        if not leash:
            for pid in proctable.descendants({owner.pid}) - ours:
                os.kill(pid, signal.SIGKILL)
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    if not leash:
        assert is_own_address(machine)
        clean_dead_runs(tmp_path / "runs")
    assert wait_until(lambda: not networks(set(proctable.pids())) & made, 60)
    assert wait_until(lambda: not is_own_address(machine), 10)


def test_a_shared_folder_below_tmp_is_seen_by_every_host() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as below, tempfile.NamedTemporaryFile(dir="/tmp") as ours:
        folder = Path(below) / "run"
        with Slurm(folder / "slurm", SlurmSpec(nodes=1, sched_interval_s=1)) as slurm:
            script = f"test -e {slurm.conf}; echo $?; test -e {ours.name}; echo $?"
            assert on_node(slurm, "gpu01", script, folder) == ["0", "1"]
        assert (folder / "slurm" / "slurm.conf").exists(), "it goes with its owner, not with the hosts"


def test_an_ordinary_user_is_told_why_all_nodes_are_on_one_host() -> None:
    code = "import os; from devstack.hosts import why_not; os.setuid(65534); print(why_not())"
    env = {"PATH": os.environ["PATH"], "PYTHONPATH": str(checkout.ROOT / "bin")}
    said = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=False)
    assert said.stdout.strip() == "only root may make network namespaces", said.stderr
