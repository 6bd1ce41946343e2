"""What this job's GPUs are: the device side's own list, compared with Slurm's variables and with what was asked.

Two names for each. `id` is for people and for the portal: the UUID, of a GPU or of a MIG slice. `name` is what an engine
is given: the index in the order of the bus for a whole GPU, which every engine understands, and the UUID for a slice,
which has no index. Neither is taken from SLURM_JOB_GPUS: under ConstrainDevices it counts the node's GPUs, of which this
job sees some, so it names devices that do not exist here.

Separate from `settings` because it starts a program, whose silence says nothing: a driver that hangs is no node without
GPUs. The rules, in order:

 1. The device side answers, and CUDA_VISIBLE_DEVICES names devices that it has: those.
 2. It answers, and has as many as were asked: those, whatever the variables say (`Flags=no_gpu_env`, or a prologue that
    copied SLURM_JOB_GPUS). Not where its tool ended with an error: the missing one may be this job's, and these not.
 3. It answers, has more, and nothing says which are this job's: refused, the others may be somebody else's.
 4. It does not answer, because its tool hangs or cannot be started, or there is no tool: what the variables say.
    Without a tool and without variables: unknown, and not refused.
 5. Fewer than asked, by any of these: refused.

A tool that ends with an error has answered: a GPU that fell off the bus is not there, whatever Slurm's variables say.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from gpuworker import devices
from gpuworker.devices import Device

log = logging.getLogger("berth.gpus")

CUDA, ROCR = "CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES"
# What Slurm or a site may have set for the whole job: one replica must see none of it but its own.
VARIABLES = (
    CUDA,
    ROCR,
    "HIP_VISIBLE_DEVICES",
    "GPU_DEVICE_ORDINAL",
    "ZE_AFFINITY_MASK",
    "NVIDIA_VISIBLE_DEVICES",
)
_SHOWN = (CUDA, "SLURM_JOB_GPUS")
_COMPARE = "Compare `nvidia-smi -L` and dmesg of the node with gres.conf: a GPU that fell off the bus has to be drained."
# Slurm's and CUDA's words for "none is named here".
_NO_NAME = frozenset({"NoDevFiles", "none", "void"})


@dataclass(frozen=True, slots=True)
class Gpus:
    """The GPUs of one node, in the order in which the portal counts them."""

    ids: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    maker: Literal["nvidia", "amd"] = "nvidia"


class TooFew(Exception):
    """A job without the GPUs that it asked for; the text says what is here, what was said, and what to do."""


def find(env: Mapping[str, str], asked: int | None, ask: Callable[[], devices.Answer] | None = None) -> Gpus:
    """Find this job's GPUs. Blocks while the device side is asked. Raise TooFew.

    `asked` is None where nobody said how many. A job that asked for none has none, whatever it may see of its
    node.
    """
    if asked == 0:
        return Gpus()
    said = (ask or devices.listed)()
    variable = ROCR if _amd(said, env) else CUDA
    named = _named(env, variable)
    found = _chosen(said, named, asked, env)
    if asked is not None and len(found) < asked and (found or said.there or named or said.silence):
        raise TooFew(_refusal(found, asked, said, env))
    if not found and asked:
        log.warning(
            "nothing says which GPUs this job has: %s; %s", _variables(env), said.silence or "no tool to ask"
        )
    log.info("%d GPUs: %s", len(found), ", ".join(f"{gpu.name} = {gpu.id}" for gpu in found) or "none")
    maker: Literal["nvidia", "amd"] = "amd" if variable == ROCR else "nvidia"
    return Gpus(tuple(gpu.id for gpu in found), tuple(gpu.name for gpu in found), maker)


def _amd(said: devices.Answer, env: Mapping[str, str]) -> bool:
    """Tell whether these are AMD's GPUs.

    Slurm sets every maker's variable unless it was told whose GPUs these are; the devices know, if they
    answer.
    """
    if said.maker:
        return said.maker == "amd"
    return bool(_named(env, ROCR)) and not _named(env, CUDA)


def _chosen(
    said: devices.Answer, named: Sequence[str], asked: int | None, env: Mapping[str, str]
) -> list[Device]:
    if not said.there:
        log.info(
            "GPUs by what the variables say, not by the devices: %s",
            said.silence or "no nvidia-smi, no rocm-smi",
        )
        return [Device(name, name) for name in dict.fromkeys(named)]
    resolved = [devices.resolve(name, said.devices) for name in named]
    if named and None not in resolved:
        return list(dict.fromkeys(gpu for gpu in resolved if gpu is not None))
    if named:
        log.warning("%s names devices that are not here; %s", _variables(env), _listed(said.devices))
    there = list(said.devices)
    if asked is None or len(there) < asked or (len(there) == asked and not said.trouble):
        return there
    if said.trouble:
        raise TooFew(
            f"This job asked for {asked} GPUs, and nothing says which of those that are here are its own, "
            f"nor whether all are here: {_variables(env)}; {_listed(said.devices)}; {said.trouble}. {_COMPARE}"
        )
    raise TooFew(
        f"This job asked for {asked} GPUs and sees {len(there)}, and nothing says which of them are its own: "
        f"{_variables(env)}; {_listed(said.devices)}. Ask the cluster's administrators for ConstrainDevices=yes in "
        "cgroup.conf, or to let Slurm set CUDA_VISIBLE_DEVICES (gres.conf without no_gpu_env)."
    )


def _named(env: Mapping[str, str], variable: str) -> list[str]:
    parts = [part.strip() for part in (env.get(variable) or "").split(",")]
    return [part for part in parts if part and part not in _NO_NAME]


def _refusal(found: Sequence[Device], asked: int, said: devices.Answer, env: Mapping[str, str]) -> str:
    there = (
        _listed(said.devices)
        if said.there
        else f"no devices could be listed ({said.silence or 'no nvidia-smi'})"
    )
    trouble = f"; {said.trouble}" if said.trouble else ""
    return f"This job asked for {asked} GPUs and has {len(found)}: {_variables(env)}; {there}{trouble}. {_COMPARE}"


def _variables(env: Mapping[str, str]) -> str:
    """Return the value of AMD's own variable where it stands alone.

    Slurm sets all of them, alike, unless it was told not to.
    """
    shown = (ROCR, *_SHOWN[1:]) if ROCR in env and CUDA not in env else _SHOWN
    return ", ".join(
        f"{name}={env[name] or '(empty)'}" if name in env else f"{name} not set" for name in shown
    )


def _listed(there: Sequence[Device]) -> str:
    names = ", ".join(f"{gpu.name} ({gpu.id})" if gpu.name != gpu.id else gpu.id for gpu in there)
    return f"devices here: {names or 'none'}"


def environment(names: Sequence[str], maker: str) -> dict[str, str]:
    """Return what lets an engine see these GPUs and no others, in the order in which they were counted."""
    if maker == "amd":
        return {ROCR: ",".join(names)}
    return {CUDA: ",".join(names), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
