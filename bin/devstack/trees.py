"""Turns the name of a Debian release into a tree in the cache whose Slurm can be run here: another release of it.

Separate from `slurm`, because a tree is built once and only read afterwards, by any number of clusters. A program runs in
it as `[*tree.words, "sinfo", …]`: with the tree's /usr and /etc and everything else of this machine (the checkout, the
cache, /tmp, /proc, the users), in a mount namespace of its own. That takes 10 ms, the process stays the one that was
started, and nothing outside sees the mounts. Only root can.

    tree = trees.ensure(trees.TRIXIE, Progress())  # builds it first where it is missing: a minute
    with Slurm(folder, SlurmSpec(nodes=2), tree=tree) as slurm:  # a cluster of that release
        CliClient(slurm.prefix, limit_s=15)  # sbatch and the others, from outside
        slurm.run("squeue")
    python = pyslurm.ensure(trees.TESTING, Progress())  # devstack.pyslurm: an interpreter that can import it ...
    subprocess.run([*slurm.prefix, python, "helper.py"])  # ... and how it runs
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shlex
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import apt, debootstrap, longrun
from devstack.checkout import cache_dir
from devstack.say import Progress, StepFailed

# What a tree shares with the machine below /etc: names of hosts and users, and how to reach package indexes.
_SHARED = (
    "hosts", "hostname", "resolv.conf", "passwd", "group", "nsswitch.conf", "localtime", "pip.conf", "xdg/pip",
    "ssl/certs",
)  # fmt: skip
_COMMANDS = (
    "sbatch", "squeue", "scancel", "sinfo", "scontrol", "sacct", "sacctmgr", "srun", "salloc", "sprio", "sshare",
)  # fmt: skip
_COMMON = (
    "slurm-wlm", "slurmrestd", "slurm-wlm-jwt-plugin", "slurmdbd", "munge", "python3", "iproute2", "procps",
    "ca-certificates",
)  # fmt: skip
_PYSLURM = ("libslurm-dev", "python3-venv", "python3-dev", "gcc", "libc6-dev")


@dataclass(frozen=True)
class Tree:
    """A Debian release and the release of Slurm that is expected in it."""

    suite: str
    slurm: tuple[int, int]
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Return the folder where it is built: another recipe is another folder."""
        recipe = repr((self.suite, self.packages, debootstrap.SCRIPT))
        return cache_dir() / "trees" / f"{self.suite}-{_digest(recipe)}"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def programs(self) -> Path:
        """Return the folder of what we put beside the tree's files, cheap and made anew when it is written
        otherwise."""
        return self.folder / f"programs-{_digest(_enter(self.root))}"

    @property
    def words(self) -> tuple[str, ...]:
        """Return what to put before a program and its arguments, so that it runs in the tree."""
        return (str(self.programs / "enter"),)

    @property
    def commands(self) -> Path:
        """Return a folder for the front of PATH, whose sbatch, squeue and so on run in the tree."""
        return self.programs / "commands"

    def ready(self) -> bool:
        return (self.folder / ".complete").exists()

    def release(self) -> tuple[int, int]:
        """Return the release of Slurm that really is in it: Debian's testing moves on."""
        return release_of([*self.words, "slurmd"])


TRIXIE = Tree("trixie", (24, 11), _COMMON)
TESTING = Tree("testing", (26, 5), (*_COMMON, *_PYSLURM))
TREES = {tree.suite: tree for tree in (TRIXIE, TESTING)}


def release_of(slurmd: Sequence[str]) -> tuple[int, int]:
    """Return Slurm's release, e.g. (24, 11), as this slurmd says it: the only program that needs no slurm.conf for that.

    Raises StepFailed where it says none.
    """
    env = {"PATH": apt.SERVER_PATH}
    said = subprocess.run([*slurmd, "-V"], env=env, capture_output=True, text=True, check=False)
    found = re.search(r"(\d+)\.(\d+)", said.stdout)
    if found is None:
        why = f"{' '.join(slurmd)} -V names no release: {said.stderr.strip()[-300:]}"
        raise StepFailed(why, "if it is in a tree, remove the tree's folder: the next run builds it again")
    return int(found.group(1)), int(found.group(2))


def chosen() -> Tree | None:
    """Return the tree whose commands are on PATH, as `bin/test --slurm` puts them; None for this machine's own Slurm.

    From PATH and nowhere else: a cluster of one release and commands of another would not understand each other.
    """
    by_folder = {str(tree.commands): tree for tree in TREES.values()}
    folders = os.environ.get("PATH", "").split(":")
    return next((by_folder[folder] for folder in folders if folder in by_folder), None)


def search_path() -> str:
    """Return a PATH on which Slurm's commands are those of the chosen tree."""
    tree = chosen()
    return f"{tree.commands}:{apt.SERVER_PATH}" if tree else apt.SERVER_PATH


def refusal() -> str:
    """Return why this user cannot have a tree; empty where nothing speaks against it."""
    return (
        "" if os.getuid() == 0 else "Slurm of another Debian release runs in mounts that only root can make"
    )


def ensure(tree: Tree, progress: Progress) -> Tree:
    """Return the tree; build it first where it is missing.

    Raises StepFailed for an ordinary user, without a mirror, and where root may make no mounts.
    """
    if refusal():
        raise StepFailed(refusal(), "run it as root, or without a tree")
    if not tree.ready():
        with progress.step(f"Build the tree of Debian {tree.suite}, for its Slurm") as note:
            with longrun.only_one(tree.folder, note):
                if not tree.ready():
                    debootstrap.build(tree.folder, tree.suite, tree.packages, note)
    if not tree.programs.exists():
        _write_programs(tree)
    done = subprocess.run([*tree.words, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(
            f"{tree.words[0]} does not work: {done.stderr.strip()}", "may this root make mount namespaces?"
        )
    return tree


def _write_programs(tree: Tree) -> None:
    """Make `enter`, the commands, and the places of what is mounted; by renaming, as others may be at it, too."""
    for path in map(Path, _mounted()):
        inside = Path(f"{tree.root}{path}")
        if path.is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        elif path.exists():
            inside.parent.mkdir(parents=True, exist_ok=True)
            if inside.is_symlink():
                inside.unlink(missing_ok=True)
            inside.touch()
    new = tree.folder / f"programs-new-{secrets.token_hex(4)}"
    (new / "commands").mkdir(parents=True)
    _write_program(new / "enter", _enter(tree.root))
    for name in _COMMANDS:
        # By its whole path: inside, PATH still begins with this folder.
        text = f'#!/bin/sh\nexec {shlex.quote(tree.words[0])} /usr/bin/{name} "$@"\n'
        _write_program(new / "commands" / name, text)
    try:
        new.rename(tree.programs)
    except OSError:
        shutil.rmtree(new)
        if not tree.programs.exists():
            raise


def _write_program(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


def _enter(root: Path) -> str:
    """Write the program `enter`: it makes its mounts in a namespace of its own and becomes what it is
    given to run."""
    return f"""#!/bin/sh
# enter PROGRAM ARGUMENT...: runs it with the /usr and /etc of this tree and everything else of this machine.
set -eu
root={shlex.quote(str(root))}
if [ "${{1-}}" != --inside ]; then exec /usr/bin/unshare --mount /bin/sh "$0" --inside "$@"; fi
shift
for path in {" ".join(_mounted())}; do
    if [ -e "$path" ] && [ -e "$root$path" ]; then /usr/bin/mount --bind "$path" "$root$path"; fi
done
/usr/bin/mount --rbind "$root/etc" /etc
/usr/bin/mount --rbind "$root/usr" /usr
exec "$@"
"""


def _mounted() -> list[str]:
    """List what is this machine's inside a tree's /usr and /etc, too."""
    return [f"/etc/{name}" for name in _SHARED] + _interpreter()


def _interpreter() -> list[str]:
    """List what jobs need of this machine's Python, should it lie in the /usr that the tree's takes the
    place of."""
    if sys.base_prefix == "/usr/local":
        return ["/usr/local"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [f"/usr/bin/{version}", f"/usr/lib/{version}"] if sys.base_prefix == "/usr" else []


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:12]
