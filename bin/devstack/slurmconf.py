"""Turns a description of a small cluster into the text of slurm.conf and gres.conf. Pure: values in, text
out.

Separate from `slurm` so that what the private cluster is can be read and tested without starting one.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class SlurmSpec:
    """A private cluster. Memory in MiB, times in seconds. `partitions` replaces the usual ones if given."""

    nodes: int = 4
    gpus: int = 4
    gpu_type: str = "a100"
    cpus: int = 8
    memory_mb: int = 16_000
    partitions: tuple[str, ...] = ()
    preemption: bool = False  # adds partition `spare`, whose jobs are cancelled when `gpu` needs the room
    grace_s: int = 0  # GraceTime of `spare`
    min_job_age_s: int = 300  # how long ended jobs stay in listings
    kill_wait_s: int = 5
    sched_interval_s: int = 5
    max_walltime_min: int = 240
    one_host: bool = False  # all nodes on the machine itself, also where each could be a host of its own
    accounting: bool = False  # slurmdbd, and limits of QOS and associations; wants apt.ACCOUNTING
    rest: bool = False  # slurmrestd, see there
    extra: tuple[str, ...] = ()  # further lines of slurm.conf
    node: str = ""  # further words of each node's line, e.g. "Feature=nvlink TmpDisk=1000"

    @property
    def node_names(self) -> tuple[str, ...]:
        return tuple(f"gpu{number:02}" for number in range(1, self.nodes + 1))


@dataclass(frozen=True)
class Place:
    """One daemon's place: the name of its host, and the address and port that the others dial."""

    host: str
    address: str
    port: int


@dataclass(frozen=True)
class ClusterSite:
    """The site of a cluster: folder, user, and the place of each daemon.

    `bind`: daemons listen on the address of their host's name only. That is for daemons that share a machine
    whose name means a loopback address; those with a network of their own listen on all of it.
    """

    home: Path
    user: str
    munge_socket: Path
    controller: Place
    nodes: tuple[Place, ...]
    bind: bool
    first_job_id: int
    accounting_port: int = 0


def partitions(spec: SlurmSpec) -> list[str]:
    if spec.partitions:
        return list(spec.partitions)
    common = f"Nodes=ALL MaxTime={spec.max_walltime_min} DefaultTime=30 State=UP"
    if not spec.preemption:
        return [f"PartitionName=gpu Default=YES {common}"]
    return [
        f"PartitionName=gpu Default=YES PriorityTier=10 PreemptMode=OFF {common}",
        f"PartitionName=spare PriorityTier=1 PreemptMode=CANCEL GraceTime={spec.grace_s} {common}",
    ]


def accounting(spec: SlurmSpec, site: ClusterSite) -> list[str]:
    if not spec.accounting:
        return ["AccountingStorageType=accounting_storage/none"]
    return [
        "AccountingStorageType=accounting_storage/slurmdbd",
        f"AccountingStorageHost={site.controller.address}",
        f"AccountingStoragePort={site.accounting_port}",
        f"AccountingStoragePass={site.munge_socket}",  # the name that this setting has for munge's socket
        "AccountingStorageEnforce=associations,limits,qos",
        "AccountingStorageTRES=gres/gpu",
    ]


def rest_lines(home: Path) -> list[str]:
    """Return what slurm.conf and slurmdbd.conf need, so that the tokens that slurmrestd passes on are taken."""
    return ["AuthAltTypes=auth/jwt", f"AuthAltParameters=jwt_key={home}/jwt.key"]


def slurm_conf(spec: SlurmSpec, site: ClusterSite) -> str:
    home = site.home
    # Slurm can bind to one address only, that of the machine's own name. Where this will not do, its daemons listen
    # everywhere, as they do on any cluster; messages without our munge key are refused.
    bind = ["CommunicationParameters=NoCtldInAddrAny,NoInAddrAny"] if site.bind else []
    preempt = ["PreemptType=preempt/partition_prio", "PreemptMode=CANCEL"] if spec.preemption else []
    nodes = [
        f"NodeName={name} NodeHostname={at.host} NodeAddr={at.address} Port={at.port} CPUs={spec.cpus} "
        f"RealMemory={spec.memory_mb} Gres=gpu:{spec.gpu_type}:{spec.gpus} State=UNKNOWN {spec.node}".rstrip()
        for name, at in zip(spec.node_names, site.nodes, strict=True)
    ]
    lines = [
        "ClusterName=berth",
        f"SlurmctldHost={site.controller.host}({site.controller.address})",
        f"SlurmctldPort={site.controller.port}",
        f"SlurmUser={site.user}",
        f"SlurmdUser={site.user}",
        "AuthType=auth/munge",
        f"AuthInfo=socket={site.munge_socket}",
        "CredType=cred/munge",
        *bind,
        f"StateSaveLocation={home}/state",
        f"SlurmdSpoolDir={home}/%n",
        f"SlurmctldPidFile={home}/slurmctld.pid",
        f"SlurmdPidFile={home}/%n.pid",
        "ProctrackType=proctrack/linuxproc",
        "TaskPlugin=task/none",
        "JobAcctGatherType=jobacct_gather/none",
        *accounting(spec, site),
        *(rest_lines(home) if spec.rest else []),
        "SelectType=select/cons_tres",
        "SelectTypeParameters=CR_Core_Memory",
        # Without it a job that names no memory takes its node's whole memory, and no second job fits.
        f"DefMemPerCPU={max(1, spec.memory_mb // spec.cpus)}",
        "SlurmdParameters=config_overrides",
        "GresTypes=gpu",
        "MpiDefault=none",
        "MailProg=/bin/true",
        "ReturnToService=2",
        f"FirstJobId={site.first_job_id}",
        f"MinJobAge={spec.min_job_age_s}",
        f"KillWait={spec.kill_wait_s}",
        "InactiveLimit=0",
        "SlurmctldTimeout=30",
        "SlurmdTimeout=60",
        "SlurmctldDebug=info",
        "SlurmdDebug=info",
        "SchedulerType=sched/backfill",
        f"SchedulerParameters=sched_interval={spec.sched_interval_s},bf_interval={spec.sched_interval_s},"
        "sched_min_interval=100000,batch_sched_delay=0",
        *preempt,
        *spec.extra,
        *nodes,
        *partitions(spec),
    ]
    return "\n".join(lines) + "\n"


def cgroup_conf(version: tuple[int, int]) -> str:
    """Keep slurmd away from the machine's cgroups, which it would else look for (and want to own) at its
    start.

    Releases before 23.11 cannot do without a plugin; the v1 one touches nothing until something is confined.
    """
    return f"CgroupPlugin={'disabled' if version >= (23, 11) else 'cgroup/v1'}\n"


def gres_conf(spec: SlurmSpec, home: Path) -> str:
    """Name the files of the GPUs: with a bare Count the nodes go INVAL.

    Plain files will do for that; only character devices give a job its CUDA_VISIBLE_DEVICES.
    """
    last = spec.gpus - 1
    files = f"{home}/nvidia0" if last == 0 else f"{home}/nvidia[0-{last}]"
    return f"AutoDetect=off\nName=gpu Type={spec.gpu_type} File={files}\n"
