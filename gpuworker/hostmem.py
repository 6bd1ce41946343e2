"""How much host memory this job has on this node: the least of what its cgroup, Slurm's variables and the node say.

Separate from `settings` because each of them may be silent for its own reason: a site without task/cgroup limits nothing,
a job without `--mem` has what its CPUs bring along (DefMemPerCPU), and the node's own size is then far too much.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

# cgroup v1 writes "no limit" as the largest number of pages that it can count.
_UNLIMITED = 2**60


@dataclass(frozen=True, slots=True)
class HostMemory:
    mb: int
    by: str  # who says so, in words


def of(
    env: Mapping[str, str], gpus: int, proc: Path = Path("/proc"), sys: Path = Path("/sys/fs/cgroup")
) -> HostMemory:
    """Find the host memory that this job may use. `gpus` are this job's on this node, for a limit per GPU."""
    known = [*_of_cgroup(proc, sys), *_of_slurm(env, gpus), HostMemory(_node_mb(), "the node's memory")]
    return min(known, key=lambda one: one.mb)


def _node_mb() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") // 2**20


def _of_slurm(env: Mapping[str, str], gpus: int) -> Iterator[HostMemory]:
    """Yield what Slurm was asked for; 0 is all of the node."""
    cpus = _number(env, "SLURM_CPUS_ON_NODE") or _number(env, "SLURM_JOB_CPUS_PER_NODE")
    on_node = gpus or _number(env, "SLURM_GPUS_ON_NODE")
    per = (("NODE", 1, ""), ("CPU", cpus, f" x {cpus} CPUs"), ("GPU", on_node, f" x {on_node} GPUs"))
    for what, times, words in per:
        mb = _number(env, f"SLURM_MEM_PER_{what}")
        if mb and times:
            yield HostMemory(mb * times, f"SLURM_MEM_PER_{what}={mb}{words}")
            return


def _number(env: Mapping[str, str], name: str) -> int:
    """Return the leading digits of a variable: SLURM_JOB_CPUS_PER_NODE may say "8(x2)"."""
    text = env.get(name, "")
    digits = text[: len(text) - len(text.lstrip("0123456789"))]
    return int(digits) if digits else 0


def _of_cgroup(proc: Path, sys: Path) -> Iterator[HostMemory]:
    """Yield each limit on the way from this process's group up to the root: all of them hold."""
    try:
        lines = Path(proc, "self/cgroup").read_text().splitlines()
    except OSError:
        return
    for line in lines:
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if number == "0" and not controllers:
            # Beside v1 it is mounted aside, without a memory controller.
            root, name = sys, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = sys / "memory", "memory.limit_in_bytes"
        else:
            continue
        yield from _limits(root, path, name)


def _limits(root: Path, path: str, name: str) -> Iterator[HostMemory]:
    group = Path(root, path.lstrip("/"))
    for folder in (group, *group.parents):
        if not folder.is_relative_to(root):
            return
        try:
            text = Path(folder, name).read_text().strip()
        except OSError:
            continue  # the root has none; a container may see its own part only
        if text.isdigit() and int(text) < _UNLIMITED:
            yield HostMemory(int(text) // 2**20, f"the job's cgroup ({folder.relative_to(root)})")
