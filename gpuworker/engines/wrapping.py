"""An engine's command and environment → the same inside what its environment asks for: a prologue, an Apptainer image.

The prologue is the administrator's shell, e.g. `module load cuda/12`: bash runs it and then becomes the engine, so that
what it exports is the engine's and there is one process less to end. Separate from `process`, which starts and ends
whatever command it is given. Nothing is quoted: the script is the same for everybody, the rest are its arguments.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from gpuworker.engines.protocol import BadArgument, Wrapping
from gpuworker.gpus import VARIABLES

FAILED = "berth: the prologue of the engine's environment failed"
NO_TOOL = "berth: neither apptainer nor singularity is on this node's PATH"
# $1 is the prologue. A line of it that fails ends it; one inside a file that it sources, or in a function, does not:
# /etc/profile.d is full of those. BASH_SOURCE is empty here and not there.
_BASH = f"""
berth_code=0
berth_failed() {{ trap - EXIT ERR; echo "{FAILED} with exit code $1${{2:+: $2}}" >&2; exit "$(( $1 ? $1 : 1 ))"; }}
trap 'berth_failed $?' EXIT
trap 'berth_code=$?; [ ${{#BASH_SOURCE[@]}} -gt 0 ] || berth_failed $berth_code "$BASH_COMMAND"' ERR
berth_prologue=$1
shift
eval "$berth_prologue"
trap - EXIT ERR
set +eu
"""
_BECOME = """exec env "$@"
"""
# What the host's modules set for programs of the host would lead those of the image astray.
_BECOME_APPTAINER = f"""unset LD_LIBRARY_PATH LD_PRELOAD PYTHONHOME PYTHONPATH VIRTUAL_ENV CONDA_PREFIX
tool=apptainer
command -v apptainer >/dev/null || tool=singularity
command -v "$tool" >/dev/null || {{ echo "{NO_TOOL}" >&2; exit 127; }}
exec "$tool" exec "$@"
"""
# Apptainer puts these into the image whatever that one sets itself; SingularityCE knows them by its own name.
_INSIDE = ("APPTAINERENV_", "SINGULARITYENV_")
_OURS = (*VARIABLES, "CUDA_DEVICE_ORDER", "PYTHONUNBUFFERED")
_GPU_FLAGS = {"nv": "--nv", "rocm": "--rocm"}


def wrapped(
    argv: list[str],
    environment: Mapping[str, str],
    own: Iterable[str],
    wrapping: Wrapping,
    folders: Iterable[str],
    home: Path,
    gpus: bool,
) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment that start it.

    `own`: names of what is the engine's besides its GPUs, whatever the prologue sets. `folders`: what it reads, besides
    `home`, where its socket and log are. Raises BadArgument for a folder that Apptainer's lists cannot name."""
    if not wrapping.prologue and not wrapping.image:
        return argv, dict(environment)
    bash = ["bash", "--noprofile", "--norc", "-c"]
    env = {name: value for name, value in environment.items() if name not in ("BASH_ENV", "ENV")}
    fixed = {name: env[name] for name in sorted({*own, *_OURS}) if name in env}
    if not wrapping.image:
        given = [f"{name}={value}" for name, value in fixed.items()]
        return [*bash, _BASH + _BECOME, "berth-engine", wrapping.prologue, *given, *argv], env
    options = [_GPU_FLAGS[wrapping.image_gpu]] if wrapping.image_gpu and gpus else []
    for bind in [*_seen_inside([str(home), *folders]), *wrapping.binds]:
        options += ["--bind", bind]
    options += ["--pwd", str(home), wrapping.image]
    inside = {f"{prefix}{name}": value for prefix in _INSIDE for name, value in fixed.items()}
    script = _BASH + _BECOME_APPTAINER
    return [*bash, script, "berth-engine", wrapping.prologue, *options, *argv], {**env, **inside}


def explained(log: str) -> str:
    """Return in words what of this module failed, from the end of the engine's log; "" when nothing did."""
    for line in reversed(log.splitlines()):
        if line.startswith((FAILED, NO_TOOL)):
            return line.removeprefix("berth: ")
    return ""


def _seen_inside(folders: Iterable[str]) -> list[str]:
    """Return the folders, and those into which links in them lead: a model's weights are often links to elsewhere."""
    found: dict[str, None] = {}
    for folder in folders:
        for path in (folder, *_linked(folder)):
            if any(letter in path for letter in ":,"):
                raise BadArgument(
                    f"folder {path!r} cannot be seen inside an image: its name holds ':' or ','"
                )
            found[path] = None
    return [path for path in found if not any(path.startswith(f"{other}/") for other in found)]


def _linked(folder: str) -> list[str]:
    """Return where the links among the folder's entries lead, and the folder itself if it is one."""
    real = os.path.realpath(folder)
    found = {real} if real != folder else set()
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return sorted(found)
    for entry in entries:
        if entry.is_symlink():
            target = os.path.realpath(entry.path)
            found.add(target if Path(target).is_dir() else str(Path(target).parent))
    return sorted(found)
