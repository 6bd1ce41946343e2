"""Turns a Debian suite and a list of packages into a folder with that release's files, built apart from this machine.

Separate from `trees`, which says what is built and how it is used afterwards: this part is slow, needs a mirror, and
is the only one that fills a tree.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from devstack import apt, longrun, mirror
from devstack.say import StepFailed

# In a pid namespace whose first process dies with us: an interrupted build leaves nothing that still writes.
APART = [
    *("nice", "-n", "10", "setpriv", "--pdeathsig", "KILL"),
    *("unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child"),
]
# debootstrap is unpacked, not installed. No service starts in the tree. Testing's index may be past its date at a mirror
# that lags behind. Debian's slurmdbd 24.11 and 26.05 end at once with the MariaDB library that they come with: a second
# one, of this machine's release, lies beside.
SCRIPT = r"""
set -eu
folder=$1 suite=$2 uri=$3 keyring=$4
shift 4
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
get download libmariadb3
dpkg -x libmariadb3_*.deb libmariadb3
mkdir -p "$root/usr/lib/berth-slurmdbd"
cp -a libmariadb3/usr/lib/*/libmariadb.so* "$root/usr/lib/berth-slurmdbd/"
"""
SLURMDBD_LIBRARIES = "/usr/lib/berth-slurmdbd"  # in a tree: slurmdbd's LD_LIBRARY_PATH


def build(folder: Path, suite: str, packages: Sequence[str], note: Callable[[str], None]) -> None:
    """Build in place, in `folder`/root; `.complete` comes last.

    Raises StepFailed where there is no mirror, or the build ended badly: its log lies beside the folder.
    """
    source = mirror.find()
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    words = [str(folder), suite, source.uri, source.keyring, *packages]
    env = {**settings(), "PATH": apt.SERVER_PATH, "LC_ALL": "C", "DEBIAN_FRONTEND": "noninteractive"}
    code = longrun.run([*APART, "sh", "-c", SCRIPT, "build", *words], log, note, longrun.last_line, env=env)
    if code != 0:
        raise StepFailed(f"the build ended with status {code}", f"does {source.uri} have {suite}?", log)
    (folder / ".complete").touch()


def settings() -> dict[str, str]:
    """Return the proxies, certificates and pip's settings that this process was started with."""
    kept = ("http_proxy", "https_proxy", "no_proxy", "pip_", "ssl_cert", "requests_ca")
    return {name: value for name, value in os.environ.items() if name.lower().startswith(kept)}
