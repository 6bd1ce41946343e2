"""What a pilot's job asks of Slurm, as one frozen value.

Separate from the rendering, because a client that speaks to slurmrestd sends the same fields as JSON instead
of directives, and because placement compares specs without ever making a script of them.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SecretFile:
    """A file that only the pilot may read. It travels on the submit command's stdin, nowhere else."""

    path: str
    text: str = field(repr=False)  # one line of JSON: wire.Secret


@dataclass(frozen=True, slots=True)
class JobSpec:
    """One pilot's job. An empty string leaves the directive out. Checked by `directives`, not here."""

    name: str  # berth-<instance>-<pilot>
    pilot: str
    log_path: str  # stdout and stderr of the job
    agent_python: str  # interpreter that runs the agent, as seen on the node
    agent_home: str  # folder that holds the gpuworker package, as seen on the node
    secret: SecretFile
    limit_min: int  # --time
    least_limit_min: int  # --time-min; 0 = the same as limit_min
    cpus: int
    mem_mb: int  # 0 = the partition's default
    partition: str = ""
    account: str = ""
    qos: str = ""
    gres: str = ""  # "gpu:a100:4"
    gpus_per_node: str = ""  # "a100:4" or "4": instead of a gres, where a site wants it
    gpus: int = 0  # on each node, for the agent to compare with what it finds
    mem_per_gpu_mb: int = 0  # --mem-per-gpu, instead of mem_mb; 0 = none
    nodes: int = 1  # one task, the agent, on each
    constraint: str = ""  # "a100&nvlink"
    reservation: str = ""
    licenses: str = ""  # "ansys:2,matlab@flex"
    exclusive: str = ""  # "node" = no job beside it on its nodes; "user", "mcs" = none of others
    nice: int = 0
    wckey: str = ""
    # Further directives, e.g. (("switches", "1@60"), ("contiguous", "")).
    extra: tuple[tuple[str, str], ...] = ()
    signal_s: int = 60  # USR2 to the agent this long before the end
    door_address: str = ""  # what the ingress binds to; "" = the agent's own choice
    door_ports: str = ""  # "40000-40099"; "" = any
    exclude: str = ""  # nodes not to run on, "gpu01,gpu02"
    link: str = "direct"  # or "reverse": the agent opens the connections to the portal
    scratch: str = ""  # node-local folder; "" = the agent's own choice
    prologue: str = ""  # the administrator's shell lines from the profile, run before the agent
