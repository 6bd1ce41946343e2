"""A handful of jobs that, together, ask for everything that a job may ask of Slurm, and the cluster that has it all.

One list for the snapshots of the rendered scripts, shellcheck, and `sbatch --test-only` of each release.
"""

from __future__ import annotations

from dataclasses import replace

from scheduler.slurm.spec import JobSpec, SecretFile

PLAIN = JobSpec(
    name="berth-ab12-0f3e",
    pilot="0f3e",
    log_path="/spool/log/0f3e.out",
    agent_python="/opt/berth/bin/python",
    agent_home="/opt/berth/src",
    secret=SecretFile("/spool/secret/0f3e.json", '{"ingress_key": "hidden"}'),
    limit_min=240,
    least_limit_min=0,
    cpus=1,
    mem_mb=0,
    partition="gpu",
)
SPECS: dict[str, JobSpec] = {
    "plain": PLAIN,
    "typical": replace(
        PLAIN,
        least_limit_min=30,
        cpus=4,
        mem_mb=2_000,
        gres="gpu:a100:2",
        gpus=2,
        door_address="ib0",
        door_ports="40000-40099",
        scratch="/local/scratch",
        prologue="module() { :; }\nmodule load slurm",
    ),
    "gpus_per_node": replace(
        PLAIN,
        gpus_per_node="a100:2",
        gpus=2,
        mem_per_gpu_mb=1_000,
        constraint="a100&nvlink",
        licenses="ansys:2,matlab",
        reservation="ours",
        exclude="gpu02",
    ),
    "two_nodes": replace(PLAIN, cpus=2, mem_mb=1_000, nodes=2, gres="gpu:a100:2", gpus=2),
    "untyped": replace(
        PLAIN, gpus_per_node="1", gpus=1, constraint="(rack1|rack2)&nvlink", exclusive="user", nice=100
    ),
    "whole_nodes": replace(
        PLAIN,
        gres="gpu:1",
        gpus=1,
        exclusive="node",
        wckey="waves",
        extra=(
            ("comment", "berth:waves"),
            ("contiguous", ""),
            ("mail-type", "none"),
            ("prefer", "rack1"),
            ("switches", "1@60"),
            ("tmp", "1M"),
        ),
    ),
    "cpu_only": replace(
        PLAIN,
        cpus=2,
        mem_mb=1_000,
        extra=(
            ("acctg-freq", "task=30"),
            ("cluster-constraint", "fast"),
            ("cores-per-socket", "1"),
            ("cpu-freq", "medium"),
            ("hint", "nomultithread"),
            ("mincpus", "1"),
            ("network", "ib"),
            ("sockets-per-node", "1"),
        ),
    ),
    "bound": replace(
        PLAIN,
        gres="gpu:a100:1",
        gpus=1,
        extra=(
            ("gpu-bind", "closest"),
            ("gpu-freq", "medium"),
            ("gres-flags", "enforce-binding"),
            ("threads-per-core", "1"),
        ),
    ),
}
# What the private cluster has to have for them: further lines of slurm.conf, and a reservation of this name.
EXTRA_CONF = ("Licenses=ansys:4,matlab:2",)
NODE = "Feature=a100,nvlink,rack1,rack2 TmpDisk=1000"
RESERVATION = "ours"
