"""What the agent asks of an engine, whatever serves the model: the seam between a replica and its process.

Errors:  EngineError ── BadArgument   the catalog asks for something this engine does not know; nothing was started
                     ├─ EngineFailed  it did not become ready; the text ends with the end of its log
                     └─ NotOffered    the engine has no such capability, verified
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from gpuworker.remote import Span

# What was seen to work, not what an engine answers "ok" to. Whether it can sleep is seen by `gpuworker.sleep`.
Capability = Literal["adapters"]

# Marks the requests that the agent itself sends: the one before an engine is called ready, and canaries.
WARM_UP = "x-berth-warm-up"


class EngineError(Exception):
    """The engine cannot do what was asked; the text is shown to people."""


class BadArgument(EngineError):
    pass


class EngineFailed(EngineError):
    pass


class NotOffered(EngineError):
    pass


@dataclass(frozen=True, slots=True)
class Wrapping:
    """The wrapping that an engine's command is started in: shell lines and an image.

    `binds` are folders besides those that the engine needs, as Apptainer writes them.
    """

    prologue: str = ""  # bash, before the command
    image: str = ""  # Apptainer image on the node
    image_gpu: str = ""  # "nv" or "rocm": what of the node's GPU drivers the image gets
    binds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Start:
    """One part of an engine, as a helper needs it."""

    argv: list[str]
    env: Mapping[str, str]  # the engine's own, beside what the step inherited
    gpus: list[str]
    path: str  # the model's folder, which must lie below one of `roots` there, too
    roots: list[str]
    folders: list[str]
    wrapping: Wrapping


@dataclass(frozen=True, slots=True)
class EngineSpec:
    """The specification of an engine: everything that it needs to start, as values of this node."""

    model: str  # served name
    path: str  # model folder; "" where there is none
    python: str  # interpreter of the engine's environment
    gpus: list[str]  # by the names that engines understand, see `gpuworker.gpus`
    cap: int  # requests in flight that the catalog allows
    seats: int  # the most that will ever be in flight: cap and the spare seats above it
    args: dict[str, Any]
    socket_path: Path  # ≤ 107 bytes, in a 0700 folder
    log_path: Path
    may_sleep: int = 0  # how deep the catalog lets it sleep
    gpu_maker: str = "nvidia"
    others: tuple[Span, ...] = ()  # its GPUs on the job's other nodes, by rank from 1 on
    meet: str = ""  # this node's address as the others dial it; "" where there are none
    roots: tuple[str, ...] = ()  # folders below which `path` must lie, on the other nodes too
    wrapping: Wrapping = Wrapping()


@dataclass(frozen=True, slots=True)
class EngineExit:
    """The end of an engine's main process. `code` is as a shell shows it: 128 + n for signal n."""

    code: int
    why: str = ""  # in words, where the code does not say it

    @property
    def crashed(self) -> bool:
        """Tell whether it died of itself. A clean end or SIGTERM came from outside, e.g. Slurm ending all
        of a job."""
        return self.code not in (0, 128 + 15)


@dataclass(frozen=True, slots=True)
class EngineStats:
    mem_mb: int  # resident, all its processes


class Engine(Protocol):
    capabilities: frozenset[Capability]
    socket_path: Path
    version: str  # "" until ready
    phase: str  # the engine's own words while it starts

    @property
    def pid(self) -> int | None:
        """Return the root of its process tree; None until it is started."""

    async def start(self) -> None:
        """Start the process and return. Raise EngineFailed when there is none."""

    async def ready(self) -> None:
        """Return once it answers its health check. Raise EngineFailed when it ends instead."""

    async def warm_up(self) -> None:
        """Send one tiny request through its own socket, before anybody else's.

        Raise EngineFailed when it gives no answer in time: it says that it is healthy and serves nobody.
        """

    async def ended(self) -> EngineExit:
        """Wait for the end of the main process, whoever caused it."""

    async def stats(self) -> EngineStats: ...

    async def load_adapter(self, name: str, path: str) -> None:
        """Load a LoRA adapter from a folder. Raise NotOffered without `adapters`."""

    async def unload_adapter(self, name: str) -> None:
        """Unload a LoRA adapter. Raise NotOffered without `adapters`."""

    async def sleep(self, level: int) -> None:
        """Put the engine to sleep: level 1 moves the weights to host memory, level 2 forgets them.

        Nothing may be in flight. Raise NotOffered, EngineFailed. The engine's word for it is not believed:
        `gpuworker.sleep` looks at the device.
        """

    async def wake(self, level: int) -> None:
        """Wake the engine from that level of sleep. Raise NotOffered, EngineFailed."""

    async def canary(self) -> str:
        """Return the answer to a fixed question, always the same while it is sound. Raise EngineFailed."""

    async def device_mb(self) -> int | None:
        """Return the MiB that its processes hold where its weights are: on GPUs, or resident on the CPU.
        None: unknown."""

    async def stop(self, grace_s: float) -> None:
        """Ask it to end, and kill it after `grace_s`. No process of its tree is left when this returns."""

    def log_tail(self, most_bytes: int) -> str: ...
