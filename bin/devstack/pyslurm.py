"""Turns a tree into an environment whose interpreter can `import pyslurm`, for the native client's helper process.

Separate from `trees`, because it takes a compiler and a minute, and because pyslurm goes with one release of Slurm only:
each refuses to be built against any other. None is published for 26.05 yet; 25.11's works there once its check is taken
out and three names that have changed since are given (all of that tried, see docs/environment.md).
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from pathlib import Path

from devstack import apt, longrun
from devstack.debootstrap import APART, settings
from devstack.say import Progress, StepFailed
from devstack.trees import Tree

RELEASE = (26, 5)

# $1 the folder, $2 the release of Slurm, as pyslurm writes it. A pyslurm of that release is taken as it is.
_BUILD = r"""
set -eu
folder=$1 wanted=$2
python3=/usr/bin/python3
"$python3" -m venv "$folder"
python=$folder/bin/python
"$python" -m pip install --progress-bar off 'setuptools<81' wheel Cython packaging
mkdir "$folder/source"
get() { "$python" -m pip download -d "$folder/source" --no-deps --no-binary pyslurm --no-build-isolation "$1"; }
CFLAGS='-O0 -g0 -w'
if get "pyslurm==$wanted.*"; then ours=; else get pyslurm==25.11.2; ours=1; fi
cd "$folder/source"
tar xzf pyslurm-*.tar.gz
cd pyslurm-*/
if [ "$ours" ]; then
    sed -i 's/^\( *\)slurm\.check_version()$/\1pass/' setup.py
    CFLAGS="$CFLAGS -DSLURM_BACKWARD_COMPAT -Dslurm_free_ctl_conf=slurm_free_conf"
    CFLAGS="$CFLAGS -DESLURM_ERROR_ON_DESC_TO_RECORD_COPY=2044"
fi
SLURM_INCLUDE_DIR=/usr/include SLURM_LIB_DIR=/usr/lib/$(gcc -print-multiarch) PYSLURM_BUILD_JOBS=2
export CFLAGS SLURM_INCLUDE_DIR SLURM_LIB_DIR PYSLURM_BUILD_JOBS
"$python" -m pip install --no-deps --no-build-isolation .
cd /
rm -rf "$folder/source"
"""


def refusal(tree: Tree) -> str:
    """Return why this tree has no pyslurm; empty where it can have one."""
    if "libslurm-dev" not in tree.packages:
        return f"Debian {tree.suite}'s Slurm {written(tree.slurm)} has no pyslurm that compiles"
    found = tree.release()
    if found != RELEASE:
        moved = f"the tree of Debian {tree.suite} has Slurm {written(found)} by now"
        return f"{moved}, and pyslurm was tried with {written(RELEASE)}"
    return ""


def written(release: tuple[int, int]) -> str:
    """Write a release as Slurm does, e.g. 26.05."""
    return f"{release[0]}.{release[1]:02}"


def folder_of(tree: Tree) -> Path:
    """Return the folder where it is built: another tree or another recipe is another folder."""
    recipe = f"{tree.folder}\0{_BUILD}".encode()
    return tree.folder.parent / f"pyslurm-{hashlib.sha256(recipe).hexdigest()[:12]}"


def ensure(tree: Tree, progress: Progress) -> str:
    """Return the interpreter, to be run as `[*tree.words, interpreter, …]`; build the environment where it is missing.

    Raises StepFailed where `refusal` has something to say, and where no package index answers.
    """
    if why := refusal(tree):
        raise StepFailed(why)
    folder = folder_of(tree)
    if not (folder / ".complete").exists():
        with progress.step(f"Build pyslurm for Slurm {written(tree.slurm)}") as note:
            with longrun.only_one(folder, note):
                if not (folder / ".complete").exists():
                    _build(tree, folder, note)
    return str(folder / "bin" / "python")


def _build(tree: Tree, folder: Path, note: Callable[[str], None]) -> None:
    """Build in place, because environments are not moved; `.complete` comes last."""
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    env = {**settings(), "PATH": apt.SERVER_PATH, "HOME": str(Path.home()), "LC_ALL": "C.UTF-8"}
    wanted = f"{tree.slurm[0]}.{tree.slurm[1]}"
    argv = [*APART, *tree.words, "sh", "-c", _BUILD, "build", str(folder), wanted]
    code = longrun.run(argv, log, note, longrun.last_line, env=env)
    if code != 0:
        raise StepFailed(f"the build ended with status {code}", "does the package index answer?", log)
    (folder / ".complete").touch()
