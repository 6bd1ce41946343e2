"""The engines by the names the catalog uses."""

from __future__ import annotations

from collections.abc import Callable

from gpuworker.engines.echo import EchoEngine
from gpuworker.engines.protocol import BadArgument, Engine, EngineSpec
from gpuworker.engines.vllm import VllmEngine

ENGINES: dict[str, Callable[[EngineSpec], Engine]] = {
    "echo": EchoEngine,
    "vllm": VllmEngine,
}


def make_engine(name: str, spec: EngineSpec) -> Engine:
    """Make the engine of that name. Raise BadArgument for one that this agent lacks, or for unknown
    arguments."""
    kind = ENGINES.get(name)
    if kind is None:
        raise BadArgument(
            f"this gpuworker has no engine {name!r}; it has {', '.join(sorted(ENGINES))}: "
            "let the pool's environment name one of these"
        )
    return kind(spec)
