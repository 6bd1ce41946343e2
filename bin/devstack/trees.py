"""Turns the name of a Debian release into a tree in the cache whose Slurm can be run here: another release of it.

Separate from `slurm`, because a tree is built once and only read afterwards, by any number of clusters. A program runs in
it as `[*tree.words, "sinfo", …]`: with the tree's /usr and /etc and everything else of this machine (the checkout, the
cache, /tmp, /proc, the users), in a mount namespace of its own. It takes 10 ms, the process stays the one that was
started, and nothing outside sees the mounts. Only root can.

    tree = trees.ensure(trees.TRIXIE, Progress())  # builds it first where it is missing: half a minute
    Slurm(folder, SlurmSpec(nodes=2), tree=tree)  # a cluster of that release; `slurm.prefix` reaches its commands
    pyslurm.ensure(tree, Progress())  # devstack.pyslurm: an interpreter with it, run as [*tree.words, interpreter, …]
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack import apt, longrun, mirror
from devstack.checkout import cache_dir
from devstack.say import Progress, StepFailed

# What a tree shares with the machine below /etc: names of hosts and users, and how to reach package indexes.
_SHARED = [
    "hosts",
    "hostname",
    "resolv.conf",
    "passwd",
    "group",
    "nsswitch.conf",
    "localtime",
    "pip.conf",
    "ssl/certs",
    "xdg/pip",
]
_COMMON = "slurm-wlm slurmrestd slurm-wlm-jwt-plugin slurmdbd munge python3 iproute2 procps ca-certificates"


@dataclass(frozen=True)
class Tree:
    """A Debian release and the release of Slurm that is expected in it."""

    suite: str
    slurm: tuple[int, int]
    packages: tuple[str, ...]

    @property
    def folder(self) -> Path:
        """Where it is built: another recipe is another folder."""
        recipe = repr((self, _BUILD, _enter(Path()))).encode()
        return cache_dir() / "trees" / f"{self.suite}-{hashlib.sha256(recipe).hexdigest()[:12]}"

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def words(self) -> tuple[str, ...]:
        """What to put before a program and its arguments, so that it runs in the tree."""
        return (str(self.folder / "enter"),)

    def ready(self) -> bool:
        return (self.folder / ".complete").exists()

    def release(self) -> tuple[int, int]:
        """Return the release of Slurm that really is in it: Debian's testing moves on."""
        said = subprocess.run(
            [*self.words, "slurmd", "-V"],
            env={"PATH": apt.SERVER_PATH},
            capture_output=True,
            text=True,
            check=False,
        )
        found = re.search(r"(\d+)\.(\d+)", said.stdout)
        if found is None:
            raise StepFailed(f"no Slurm runs in {self.folder}: {said.stderr.strip()[-300:]}", _AGAIN)
        return int(found.group(1)), int(found.group(2))


TRIXIE = Tree("trixie", (24, 11), tuple(_COMMON.split()))
TESTING = Tree(
    "testing",
    (26, 5),
    (*_COMMON.split(), "libslurm-dev", "python3-venv", "python3-dev", "gcc", "libc6-dev"),
)
TREES = {tree.suite: tree for tree in (TRIXIE, TESTING)}
_AGAIN = "remove that folder, and the next run builds it again"

# In a pid namespace whose first process dies with us: an interrupted build leaves nothing that still writes.
APART = [
    *("nice", "-n", "10", "setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
]
# debootstrap is unpacked, not installed. No service starts in the tree. Testing's index may be past its date at a mirror
# that lags behind. slurmdbd of both releases ends at once with their own libmariadb: this machine's does.
_BUILD = r"""
set -eu
folder=$1 suite=$2 uri=$3 keyring=$4 shared=$5
shift 5
root=$folder/root
cd "$folder"
get() { apt-get -q -o APT::Sandbox::User=root -o DPkg::Lock::Timeout=180 "$@"; }
get download debootstrap || { get update; get download debootstrap; }
dpkg -x debootstrap_*.deb debootstrap
DEBOOTSTRAP_DIR=$folder/debootstrap/usr/share/debootstrap
export DEBOOTSTRAP_DIR
sh debootstrap/usr/sbin/debootstrap --variant=minbase --keyring="$keyring" "$suite" "$root" "$uri"
printf '#!/bin/sh\nexit 101\n' > "$root/usr/sbin/policy-rc.d"
chmod 755 "$root/usr/sbin/policy-rc.d"
echo 'Acquire::Check-Valid-Until "false";' > "$root/etc/apt/apt.conf.d/90berth"
apt-config dump Acquire::http Acquire::https >> "$root/etc/apt/apt.conf.d/90berth"
mount --bind /dev "$root/dev"
mount -t proc proc "$root/proc"
inside() { chroot "$root" "$@"; }
inside apt-get -q update
inside apt-get -q -o Dpkg::Use-Pty=0 install -y --no-install-recommends "$@"
inside apt-get clean
rm -rf "$root"/var/lib/apt/lists/*
for name in $shared; do
    mkdir -p "$(dirname "$root/etc/$name")"
    if [ -d "/etc/$name" ]; then mkdir -p "$root/etc/$name"; else rm -rf "$root/etc/$name"; : > "$root/etc/$name"; fi
done
get download libmariadb3
dpkg -x libmariadb3_*.deb libmariadb3
mkdir -p "$root/usr/lib/berth-slurmdbd"
cp -a libmariadb3/usr/lib/*/libmariadb.so* "$root/usr/lib/berth-slurmdbd/"
"""
SLURMDBD_LIBRARIES = "/usr/lib/berth-slurmdbd"  # in a tree: slurmdbd's LD_LIBRARY_PATH


def _enter(root: Path) -> str:
    """The program `enter`: it makes its mounts in a namespace of its own and becomes the program that it is given."""
    shared = " ".join(f"/etc/{name}" for name in _SHARED)
    return f"""#!/bin/sh
# enter PROGRAM ARGUMENT...: runs it with the /usr and /etc of this tree and everything else of this machine.
set -eu
root={root}
if [ "${{1-}}" != --inside ]; then exec /usr/bin/unshare --mount /bin/sh "$0" --inside "$@"; fi
shift
for path in {shared} {" ".join(_interpreter())}; do
    if [ -e "$path" ] && [ -e "$root$path" ]; then /usr/bin/mount --bind "$path" "$root$path"; fi
done
/usr/bin/mount --rbind "$root/etc" /etc
/usr/bin/mount --rbind "$root/usr" /usr
exec "$@"
"""


def _interpreter() -> list[str]:
    """What jobs need of this machine's Python, should it lie in the /usr that the tree's takes the place of."""
    if sys.base_prefix == "/usr/local":
        return ["/usr/local"]
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    return [f"/usr/bin/{version}", f"/usr/lib/{version}"] if sys.base_prefix == "/usr" else []


def refusal() -> str:
    """Why this user cannot have a tree; empty where nothing speaks against it."""
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
                    _build(tree, note)
    done = subprocess.run([*tree.words, "true"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise StepFailed(
            f"{tree.words[0]} does not work: {done.stderr.strip()}", "may this root make mount namespaces?"
        )
    return tree


def _build(tree: Tree, note: Callable[[str], None]) -> None:
    """Builds in place; `.complete` comes last."""
    folder, source = tree.folder, mirror.find()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    words = [str(folder), tree.suite, source.uri, source.keyring, " ".join(_SHARED), *tree.packages]
    build = longrun.run(
        [*APART, "sh", "-c", _BUILD, "build", *words],
        log,
        note,
        longrun.last_line,
        env={**settings(), "PATH": apt.SERVER_PATH, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"},
    )
    if build != 0:
        raise StepFailed(f"the build ended with status {build}", f"does {source.uri} answer?", log)
    for path in _interpreter():
        inside = Path(f"{tree.root}{path}")
        if Path(path).is_dir():
            inside.mkdir(parents=True, exist_ok=True)
        else:
            inside.touch()
    enter = folder / "enter"
    enter.write_text(_enter(tree.root))
    enter.chmod(0o755)
    (folder / ".complete").touch()


def settings() -> dict[str, str]:
    """Return the proxies and pip's settings that this process was started with."""
    kept = ("http_proxy", "https_proxy", "no_proxy", "pip_", "ssl_cert", "requests_ca")
    return {name: value for name, value in os.environ.items() if name.lower().startswith(kept)}
