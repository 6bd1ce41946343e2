"""Turns the description of a cluster into the folder that its daemons start from: places, key, GPUs, configuration.

Separate from `slurm`, which starts and hurts the processes: here nothing runs yet.
"""

from __future__ import annotations

import os
import pwd
import secrets
import socket
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack.hosts import Hosts
from devstack.ports import free_port
from devstack.slurmconf import ClusterSite, Place, SlurmSpec, cgroup_conf, gres_conf, slurm_conf

JOB_IDS_PER_START = (
    1000  # each start begins a new thousand, so that no job id is used twice in one run folder
)
NODE_PORT = 6818  # of a slurmd that has a host of its own
NVIDIA = 195  # the major number of NVIDIA's devices


def loopback_address(host: str) -> str | None:
    """Return the loopback address that a name means first, as Slurm will ask for it; None for any other."""
    try:
        address = str(socket.getaddrinfo(host, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0])
    except OSError:
        return None
    return address if address.startswith("127.") else None


@dataclass(frozen=True)
class Places:
    """The places where the controller and the nodes listen. `bind`: on that address only (see
    `slurmconf.ClusterSite`)."""

    controller: Place
    nodes: tuple[Place, ...]
    bind: bool


def places(hosts: Hosts | None, names: Sequence[str], controller_port: int) -> Places:
    """Return a place for each daemon: on its own host, where all nodes share a port, else on this machine."""
    if hosts is not None:
        own = [hosts[name] for name in (hosts.controller.name, *names)]
        ports = [controller_port, *(NODE_PORT for _ in names)]
        controller, *nodes = [
            Place(host.name, host.address, port) for host, port in zip(own, ports, strict=True)
        ]
        return Places(controller, tuple(nodes), bind=False)
    here = socket.gethostname()
    loopback = loopback_address(here)
    name, address = here.split(".")[0], loopback or "127.0.0.1"
    nodes = [Place(name, address, free_port()) for _ in names]
    return Places(Place(name, address, controller_port), tuple(nodes), bind=loopback is not None)


def lay_out(
    home: Path,
    spec: SlurmSpec,
    at: Places,
    *,
    version: tuple[int, int],
    first_job_id: int,
    accounting_port: int,
) -> None:
    """Write everything that the daemons of the cluster read at their start."""
    (home / "state").mkdir(exist_ok=True)
    # munged wants its socket's folder open to all; everything else may stay private.
    (home / "munge").mkdir(exist_ok=True)
    (home / "munge").chmod(0o755)
    write_key(home / "munge.key", 128)
    if spec.rest:
        write_key(home / "jwt.key", 32)
    for name in spec.node_names:
        (home / name).mkdir(exist_ok=True)
    for number in range(spec.gpus):
        make_gpu(home / f"nvidia{number}", number)
    site = ClusterSite(
        home=home,
        user=pwd.getpwuid(os.getuid()).pw_name,
        munge_socket=home / "munge" / "socket",
        controller=at.controller,
        nodes=at.nodes,
        bind=at.bind,
        first_job_id=first_job_id,
        accounting_port=accounting_port,
    )
    (home / "slurm.conf").write_text(slurm_conf(spec, site))
    (home / "gres.conf").write_text(gres_conf(spec, home))
    (home / "cgroup.conf").write_text(cgroup_conf(version))


def write_key(path: Path, size: int) -> None:
    """Make a key of so many bytes that only this user may read."""
    path.unlink(missing_ok=True)
    path.touch(mode=0o600)
    path.write_bytes(secrets.token_bytes(size))


def make_gpu(path: Path, number: int) -> None:
    """Make what stands for a GPU: a character device, as on a real node, where we may; else a plain file.

    Only with a device does Slurm give a job CUDA_VISIBLE_DEVICES and SLURM_JOB_GPUS. Nobody opens it: no driver is
    behind the number, and where even the number is not permitted, it is that of /dev/null.
    """
    path.unlink(missing_ok=True)
    for device in (os.makedev(NVIDIA, number), os.makedev(1, 3)):
        try:
            os.mknod(path, stat.S_IFCHR | 0o666, device)
        except OSError:
            continue
        return
    path.touch()


def next_job_id(folder: Path) -> int:
    """Return the first job number of this start, from a count of starts that is kept in the folder."""
    counter = folder / "starts"
    starts = int(counter.read_text()) if counter.exists() else 0
    counter.write_text(str(starts + 1))
    return starts % 10_000 * JOB_IDS_PER_START + 1
