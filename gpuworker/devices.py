"""The driver's own tool → this node's GPUs as far as this job may see them, or that it did not answer.

Every question to it is bounded in time: a driver in trouble hangs its tool for ever, and that is no answer, which is
something else than no GPUs. NVIDIA's tool sees what the job's cgroup lets it see, as CUDA does; a GPU that is cut into
MIG slices is no device of its own, its slices are.
"""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

LIMIT_S = 30.0  # without a persistence daemon each GPU takes seconds to wake
_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[0-9A-Za-z-]+)\)")
_SLICE = re.compile(r"\s+MIG .*\(UUID: (MIG-[0-9A-Za-z/-]+)\)")
# Exit codes. nvidia-smi's for a warning: all GPUs are there and listed.
_WORN_INFOROM = 14
# A shell's and the loader's: the tool itself said nothing, e.g. a library is missing.
_NOT_STARTED = (126, 127)

# Killed while the driver held them; kept, so that nobody waits for them.
_undead: list[subprocess.Popen[str]] = []


@dataclass(frozen=True, slots=True)
class Device:
    id: str  # the UUID
    name: str  # what an engine is given


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer of the device side.

    `there`: somebody answered, so that `devices` is all there is. `silence`: why nobody did, in words.
    `trouble`: what the tool complained of when it answered, so that a device may be missing.
    """

    there: bool
    devices: tuple[Device, ...] = ()
    silence: str = ""
    trouble: str = ""
    maker: Literal["nvidia", "amd", ""] = ""


def run(*argv: str, limit_s: float | None = None) -> tuple[str | None, str]:
    """Run a tool and return what it printed, or None and the reason in words. Blocks.

    Both are empty where there is no such tool. Both are there where the tool ended with an error: what it
    printed may be a part. This is not `subprocess.run`, which waits for what it has killed: a tool that the
    driver holds does not die.
    """
    limit_s = LIMIT_S if limit_s is None else limit_s
    try:
        tool = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
        )  # fmt: skip
    except FileNotFoundError:
        return None, ""
    except OSError as error:
        return None, f"{argv[0]}: {error.strerror}"
    try:
        out, err = tool.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        _abandon(tool)
        return None, f"{argv[0]} did not answer within {limit_s:.1f} s"
    if tool.returncode in (0, _WORN_INFOROM) or "No devices were found" in out + err:
        return out, ""
    words = [
        line.strip() for line in (err + "\n" + out).splitlines() if line.strip() and not _names_device(line)
    ]
    said = f"{argv[0]} ended with exit code {tool.returncode}: {words[0][:200] if words else 'no words'}"
    return (None if tool.returncode in _NOT_STARTED else out), said


def _names_device(line: str) -> bool:
    return bool(_GPU.match(line) or _SLICE.match(line))


def _abandon(tool: subprocess.Popen[str]) -> None:
    """Kill a tool, and wait for its end no longer than a moment."""
    tool.kill()
    for pipe in (tool.stdout, tool.stderr):
        if pipe is not None:
            pipe.close()
    try:
        tool.wait(1.0)
    except subprocess.TimeoutExpired:
        _undead.append(tool)


def listed() -> Answer:
    """List NVIDIA's GPUs, else AMD's. NVIDIA's tool may be installed where only AMD's driver is."""
    said, silence = run("nvidia-smi", "-L")
    nvidia: Answer | None = None
    if said is not None:
        nvidia = Answer(True, of_nvidia(said, _cut_up()), trouble=silence, maker="nvidia")
    elif silence:
        nvidia = Answer(False, silence=silence, maker="nvidia")
    if nvidia is not None and (nvidia.devices or not nvidia.trouble):
        return nvidia
    amd = _of_amd()
    return nvidia if nvidia is not None and not amd.devices else amd


def _of_amd() -> Answer:
    said, silence = run("rocm-smi", "--showuniqueid", "--json")
    if said is None:
        return Answer(False, silence=silence, maker="amd" if silence else "")
    found = of_amd(said)
    if found is None and not silence:
        return Answer(False, silence="rocm-smi --json did not print JSON", maker="amd")
    return Answer(True, found or (), trouble=silence, maker="amd")


def of_nvidia(said: str, cut_up: frozenset[str] = frozenset()) -> tuple[Device, ...]:
    """Parse `nvidia-smi -L` into devices in the order of the bus.

    `cut_up` are GPUs in MIG mode, which are no devices themselves.
    """
    found: list[Device] = []
    whole: Device | None = None
    for line in said.splitlines():
        if gpu := _GPU.match(line):
            if whole is not None:
                found.append(whole)
            whole = None if gpu[2] in cut_up else Device(gpu[2], gpu[1])
        elif part := _SLICE.match(line):
            whole = None
            found.append(Device(part[1], part[1]))
    if whole is not None:
        found.append(whole)
    return tuple(found)


def of_amd(said: str) -> tuple[Device, ...] | None:
    """Parse `rocm-smi --showuniqueid --json` into devices by index; return None for anything else."""
    try:
        cards = {
            int(name[4:]): card for name, card in json.loads(said).items() if re.fullmatch(r"card\d+", name)
        }
        return tuple(Device(str(cards[n].get("Unique ID") or n), str(n)) for n in sorted(cards))
    except (ValueError, AttributeError, TypeError):
        return None


def resolve(name: str, there: Sequence[Device]) -> Device | None:
    """Return the device that a variable means: by index, by UUID, or by the beginning of one, as CUDA
    takes it."""
    if name.isdigit():
        # Where GPUs are cut up, CUDA counts slices by nobody's index that is seen here.
        return next((gpu for gpu in there if gpu.name == name), None)
    matching = [gpu for gpu in there if gpu.id == name or (len(name) > 4 and gpu.id.startswith(name))]
    return matching[0] if len(matching) == 1 else None


def _cut_up() -> frozenset[str]:
    """Return the UUIDs of GPUs in MIG mode; none where the driver is too old to tell."""
    said, _ = run("nvidia-smi", "--query-gpu=uuid,mig.mode.current", "--format=csv,noheader")
    rows = [line.partition(",") for line in (said or "").splitlines()]
    return frozenset(uuid.strip() for uuid, _, mode in rows if mode.strip() == "Enabled")


def least_memory_mb() -> int:
    """Return the MiB of the smallest GPU, or slice of one, that this job sees; 0 where nobody tells.
    Blocks."""
    said, _ = run("nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits")
    sizes = [int(line) for line in (said or "").split() if line.isdigit()]  # of those that still answer
    parts, _ = run("nvidia-smi", "-L") if sizes else (None, "")
    slices = [_slice_mb(line) for line in (parts or "").splitlines() if _SLICE.match(line)]
    return min([size for size in slices if size] or sizes, default=0)


def _slice_mb(line: str) -> int:
    """Return a slice's MiB, which its profile's name has ("2g.20gb") and the GPU's own total has not."""
    size = re.search(r"MIG \d+\S*?\.(\d+)gb", line)
    return int(size[1]) * 1024 if size else 0
