"""Host memory of a job: the least of cgroup, Slurm's variables and the node."""

from __future__ import annotations

from pathlib import Path

import pytest

from gpuworker import hostmem

MIB = 2**20


def node(folder: Path, cgroup: str, limits: dict[str, str]) -> tuple[Path, Path]:
    (folder / "proc/self").mkdir(parents=True)
    (folder / "proc/self/cgroup").write_text(cgroup)
    for name, text in limits.items():
        path = folder / "sys" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text + "\n")
    return folder / "proc", folder / "sys"


def test_of_cgroup_v2_every_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    proc, sys = node(
        tmp_path,
        "0::/system.slice/slurmstepd.scope/job_7/step_batch/user/task_0\n",
        {
            "system.slice/slurmstepd.scope/job_7/memory.max": str(2048 * MIB),
            "system.slice/slurmstepd.scope/job_7/step_batch/memory.max": str(1024 * MIB),
            "system.slice/slurmstepd.scope/job_7/step_batch/user/task_0/memory.max": "max",
            "unrelated/memory.max": str(MIB),
        },
    )
    found = hostmem.of({"SLURM_MEM_PER_NODE": "2048"}, 0, proc, sys)
    assert found == hostmem.HostMemory(
        1024, "the job's cgroup (system.slice/slurmstepd.scope/job_7/step_batch)"
    )


def test_of_cgroup_v1_the_memory_controller_counts(tmp_path: Path) -> None:
    proc, sys = node(
        tmp_path,
        "4:cpu,cpuacct:/slurm/uid_1/job_7\n3:memory:/slurm/uid_1/job_7/step_batch\n0::/\n",
        {
            "memory/slurm/uid_1/job_7/memory.limit_in_bytes": str(512 * MIB),
            "memory/slurm/uid_1/job_7/step_batch/memory.limit_in_bytes": "9223372036854771712",
            "memory/memory.limit_in_bytes": "9223372036854771712",
        },
    )
    assert hostmem.of({}, 0, proc, sys).mb == 512


@pytest.mark.parametrize(
    ("env", "gpus", "mb", "by"),
    [
        ({"SLURM_MEM_PER_NODE": "700"}, 0, 700, "SLURM_MEM_PER_NODE=700"),
        ({"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4"}, 0, 400, "SLURM_MEM_PER_CPU=100 x 4 CPUs"),
        (
            {"SLURM_MEM_PER_CPU": "100", "SLURM_JOB_CPUS_PER_NODE": "2(x2)"},
            0,
            200,
            "SLURM_MEM_PER_CPU=100 x 2 CPUs",
        ),
        ({"SLURM_MEM_PER_GPU": "300", "SLURM_GPUS_ON_NODE": "1"}, 2, 600, "SLURM_MEM_PER_GPU=300 x 2 GPUs"),
        ({"SLURM_MEM_PER_GPU": "300", "SLURM_GPUS_ON_NODE": "1"}, 0, 300, "SLURM_MEM_PER_GPU=300 x 1 GPUs"),
    ],
)
def test_what_slurm_was_asked_for(env: dict[str, str], gpus: int, mb: int, by: str, tmp_path: Path) -> None:
    assert hostmem.of(env, gpus, tmp_path, tmp_path) == hostmem.HostMemory(mb, by)


@pytest.mark.parametrize(
    "env", [{}, {"SLURM_MEM_PER_NODE": "0"}, {"SLURM_MEM_PER_CPU": "100"}, {"SLURM_MEM_PER_NODE": "x"}]
)
def test_else_it_is_the_nodes(env: dict[str, str], tmp_path: Path) -> None:
    found = hostmem.of(env, 0, tmp_path, tmp_path)
    assert found.by == "the node's memory" and found.mb > 100
