"""A process tree → the memory that it holds on GPUs, as the driver's own tool says it, in MiB.

Separate from `proctree` because it starts a program, and because its answer may be "unknown": a container with its
own process ids, or a driver that does not say, must not look like a GPU that is free.
"""

from __future__ import annotations

from collections.abc import Callable

from gpuworker import devices, proctree

QUERY = ("nvidia-smi", "--query-compute-apps=pid,used_memory", "--format=csv,noheader,nounits")
LIMIT_S = 20.0


def held_mb(root: int, ask: Callable[[], str | None] | None = None) -> int | None:
    """Return the MiB that `root` and everything below it hold on all GPUs; None where nobody can tell.
    Blocks."""
    said = (ask or _nvidia_smi)()
    if said is None:
        return None
    tree = {root, *proctree.descendants(root)}
    total = 0
    for line in said.splitlines():
        pid, _, used = (part.strip() for part in line.partition(","))
        if not pid.isdigit() or int(pid) not in tree:
            continue
        if not used.isdigit():
            return None  # "[N/A]": the driver does not tell
        total += int(used)
    return total


def _nvidia_smi() -> str | None:
    said, trouble = devices.run(*QUERY, limit_s=LIMIT_S)
    return None if trouble else said  # a part of the list would look like memory that is free
