"""One job step on another node of this job: `srun` as a process, which is given its secret on standard input.

Separate from `nodes` because it is all that knows of srun. Everything is said explicitly: what a step inherits from the
batch script differs from release to release (CPUs since 22.05), and steps must not wait for each other's resources.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path

_SRUN_AT = ("/usr/bin", "/opt/slurm/bin", "/usr/local/bin", "/usr/local/slurm/bin")
END_S = 3.0


async def start(
    node: str, module: str, told: object, said: Path, env: Mapping[str, str]
) -> asyncio.subprocess.Process:
    """Run a module of ours on that node; `told` is its line of JSON, `said` what it and srun write. Raises OSError."""
    argv = [
        _srun(env), "--nodes=1", "--ntasks=1", f"--nodelist={node}", f"--cpus-per-task={_cpus(env)}",
        "--overlap", "--export=ALL", "--mpi=none", "--cpu-bind=none", "--kill-on-bad-exit=0", "--job-name=berth-node",
        sys.executable, "-m", module,
    ]  # fmt: skip
    with said.open("ab") as out:
        step = await asyncio.create_subprocess_exec(
            *argv, stdin=asyncio.subprocess.PIPE, stdout=out, stderr=out, start_new_session=True
        )
    assert step.stdin is not None
    step.stdin.write(json.dumps(told).encode() + b"\n")
    with contextlib.suppress(ConnectionError):
        await step.stdin.drain()
    step.stdin.close()
    return step


async def end(step: asyncio.subprocess.Process) -> None:
    """End a step: srun ends with its task, which ends with its link.

    Whatever is in the way of that is not waited for long.
    """
    for number in (None, "terminate", "kill"):
        if step.returncode is not None:
            return
        if number:
            with contextlib.suppress(ProcessLookupError):
                getattr(step, number)()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(END_S):
                await step.wait()


def _cpus(env: Mapping[str, str]) -> int:
    for name in ("SLURM_CPUS_PER_TASK", "SLURM_CPUS_ON_NODE"):
        if env.get(name, "").isdigit():
            return int(env[name])
    return 1


def _srun(env: Mapping[str, str]) -> str:
    found = shutil.which("srun", path=":".join([env.get("PATH", ""), *_SRUN_AT]))
    if found is None:
        raise FileNotFoundError(
            "there is no srun on this node's PATH: name its folder in the profile's prologue"
        )
    return found
