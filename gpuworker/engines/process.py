"""One engine as processes: started under a warden, logging to a file, ended as a whole tree."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

from gpuworker import gpus, proctree, warden
from gpuworker.engines.protocol import EngineExit

# Left over from the batch shell, these confuse engines: a port meant for one of several, a rank in an MPI world
# that does not exist, a Slurm client's output format. Sites set what engines need in the environment's prologue.
_DROPPED_PREFIXES = ("SQUEUE_", "SBATCH_", "SLURM_", "SRUN_", "SINFO_", "PMI", "OMPI_", "BERTH_", "PYTHON")
_DROPPED = frozenset(
    {
        "VLLM_PORT",
        "VLLM_HOST_IP",
        "MASTER_ADDR",
        "MASTER_PORT",
        "RANK",
        "LOCAL_RANK",
        "WORLD_SIZE",
        "NODE_RANK",
        *gpus.VARIABLES,
    }
)


def engine_environment(
    inherited: Mapping[str, str], visible: Mapping[str, str], own: Mapping[str, str]
) -> dict[str, str]:
    """Return the environment of one engine: the job's without what confuses, its GPUs (`visible`), the
    engine's own."""
    kept = {
        name: value
        for name, value in inherited.items()
        if not name.startswith(_DROPPED_PREFIXES) and name not in _DROPPED
    }
    return {**kept, **visible, "PYTHONUNBUFFERED": "1", **own}


class EngineProcess:
    def __init__(self, warden_process: asyncio.subprocess.Process) -> None:
        self._warden = warden_process
        self._stopping = False

    @classmethod
    async def start(cls, argv: list[str], env: Mapping[str, str], log_path: Path) -> EngineProcess:
        """Start an engine's command under a warden.

        Raise OSError when the warden cannot be started; a wrong interpreter shows as an early end.
        """
        with log_path.open("ab") as log:
            process = await asyncio.create_subprocess_exec(
                *warden.command(argv),
                stdin=asyncio.subprocess.PIPE,
                stdout=log,
                stderr=log,
                env=dict(env),
                cwd=log_path.parent,
                start_new_session=True,
            )
        return cls(process)

    @property
    def pid(self) -> int:
        """Return the process id of the warden: the root of the tree."""
        return self._warden.pid

    async def ended(self) -> EngineExit:
        code = await self._warden.wait()
        return EngineExit(code if code >= 0 else 128 - code)

    def running(self) -> bool:
        return self._warden.returncode is None

    async def stop(self, grace_s: float) -> None:
        if self._warden.stdin is None or not self.running():
            return
        if grace_s > 0 and not self._stopping:
            self._stopping = True
            self._warden.stdin.write(warden.GENTLE)
            try:
                async with asyncio.timeout(grace_s):
                    await self._warden.wait()
                return
            except TimeoutError:
                pass
        # The leash let go: the warden kills all that is left.
        self._warden.stdin.close()
        await self._warden.wait()

    def memory_mb(self) -> int:
        return proctree.memory_mb(self._warden.pid) if self.running() else 0
