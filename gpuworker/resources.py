"""What this job holds on this node, GPUs and host memory, against what it asked for. Blocks; asked once, at start.

Fewer GPUs than asked are refused, because the portal would place models on what is not there. Less memory is said in
the log: Slurm may give less and mean it (a limit per CPU), and a model that does not fit fails with the engine's words.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass

from gpuworker import gpus, hostmem
from gpuworker.settings import Settings, SettingsError

log = logging.getLogger("berth.resources")


@dataclass(frozen=True, slots=True)
class Resources:
    gpus: gpus.Gpus
    mem_mb: int


def look(env: Mapping[str, str], given: Settings) -> Resources:
    """Find out what this job holds. Raise SettingsError when it cannot serve with that."""
    try:
        found = gpus.find(env, given.asked_gpus)
    except gpus.TooFew as error:
        raise SettingsError(str(error)) from None
    memory = hostmem.of(env, len(found.names))
    if memory.mb < given.asked_mem_mb:
        log.warning(
            "this job asked for %d MiB of host memory and has %d MiB by %s: models may not fit",
            given.asked_mem_mb, memory.mb, memory.by,
        )  # fmt: skip
    log.info("host memory: %d MiB by %s", memory.mb, memory.by)
    return Resources(found, memory.mb)
