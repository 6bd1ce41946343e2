"""Turns "these programs are needed" into installed Debian packages, without a service started or changed.

Separate because it is the only part that needs root and the only one that touches the machine outside our
folders. Nothing is done where the programs exist. The install itself is one shell script run as root, so that
its precautions are undone by the same process that took them, however it ends.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import longrun
from devstack.say import Progress, StepFailed

SERVER_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def find_program(name: str) -> str | None:
    """Find a program, looking in the sbin folders too (an ordinary user's PATH lacks them)."""
    return shutil.which(name, path=f"{os.environ.get('PATH', '')}:{SERVER_PATH}")


def program(name: str) -> str:
    found = find_program(name)
    if found is None:
        raise StepFailed(
            f"the program {name} is not installed", "run bin/demo or bin/test once: they install it"
        )
    return found


def postgres_bin() -> Path | None:
    """Return the folder with the newest installed PostgreSQL server's programs (Debian keeps them off
    PATH)."""
    found = [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    return max(found, key=lambda path: int(path.parent.name)) if found else None


def _venv_works() -> bool:
    python = find_program("python3")
    return python is not None and (
        subprocess.run([python, "-c", "import ensurepip, venv"], capture_output=True, check=False).returncode
        == 0
    )


def fake_clock() -> Path | None:
    """Return the library that, loaded before others, gives a program another time of day."""
    return next(iter(Path("/usr/lib").glob("*/faketime/libfaketime.so.1")), None)


@dataclass(frozen=True)
class Need:
    """A Debian package and how to see that what it brings is already here."""

    package: str
    present: Callable[[], bool]


def on_path(package: str, *programs: str) -> Need:
    return Need(package, lambda: all(find_program(name) for name in programs))


VENV = Need("python3-venv", _venv_works)
SERVICES = (
    Need("postgresql", lambda: postgres_bin() is not None),
    on_path("redis-server", "redis-server"),
    on_path("munge", "munged", "munge"),
    on_path("slurm-wlm", "slurmctld", "slurmd", "sbatch", "squeue", "scontrol"),
    on_path("iproute2", "ip"),
    VENV,
)
ACCOUNTING = (
    on_path("slurmdbd", "slurmdbd", "sacctmgr", "sacct"),
    on_path("mariadb-server-core", "mariadbd", "mariadb-install-db"),
    on_path("mariadb-client-core", "mariadb"),
)
FIREWALL = (on_path("nftables", "nft"),)  # of tests that close a host to the portal
# Of tests in which a node's clock is wrong: namespaces give no host a time of day of its own.
FAKE_CLOCK = (Need("libfaketime", lambda: bool(fake_clock())),)
BENCH = (on_path("wrk", "wrk"),)
BROWSER = (on_path("chromium", "chromium"),)
SHELLCHECK = (on_path("shellcheck", "shellcheck"),)

# Precautions, each only where nobody had decided otherwise before, each undone at the end:
# policy-rc.d 101 keeps maintainer scripts from starting or restarting services; the createcluster drop-in
# keeps postgresql from creating its "main" cluster; units that this install brought are disabled for the next
# boot.
INSTALL_SCRIPT = r"""
set -eu
policy=/usr/sbin/policy-rc.d
dropin=/etc/postgresql-common/createcluster.d/berth-no-main.conf
sign='# written by the Berth development stack for the time of one install'
made_policy= made_dropin=
units_before=$(mktemp)
unit_names() { { ls /lib/systemd/system /usr/lib/systemd/system 2>/dev/null || true; } | sort -u; }
restore() {
    [ -z "$made_policy" ] || rm -f "$policy"
    [ -z "$made_dropin" ] || rm -f "$dropin"
    rm -f "$units_before"
}
trap restore EXIT
trap 'exit 130' INT TERM HUP
# What a killed install left behind is ours by its sign.
[ ! -e "$policy" ] || ! grep -qF "$sign" "$policy" || rm -f "$policy"
rm -f "$dropin"
if [ ! -e "$policy" ]; then
    made_policy=1
    printf '#!/bin/sh\n%s\nexit 101\n' "$sign" > "$policy"
    chmod 755 "$policy"
fi
if ! ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1; then
    made_dropin=1
    mkdir -p "${dropin%/*}"
    printf '%s\ncreate_main_cluster = false\n' "$sign" > "$dropin"
fi
unit_names > "$units_before"
export DEBIAN_FRONTEND=noninteractive NEEDRESTART_SUSPEND=1
get() { apt-get -q -o DPkg::Lock::Timeout=180 -o Dpkg::Use-Pty=0 "$@"; }
install() { get install -y --no-install-recommends "$@"; }
ls /var/lib/apt/lists/*_Packages* >/dev/null 2>&1 || get update
install "$@" || { get update; install "$@"; }
if command -v systemctl >/dev/null; then
    for unit in $(unit_names | comm -13 "$units_before" - | grep '\.service$' | grep -v '@'); do
        case "$unit" in
            postgresql*|redis*|munge*|slurm*) systemctl disable --quiet "$unit" >/dev/null 2>&1 || true ;;
        esac
    done
fi
"""


def missing(needs: Sequence[Need]) -> list[str]:
    return [need.package for need in needs if not need.present()]


def _as_root() -> list[str]:
    if os.getuid() == 0:
        return []
    sudo = shutil.which("sudo")
    if sudo is None:
        raise StepFailed("Debian packages are missing and there is neither root nor sudo", "")
    return [sudo]


def install(needs: Sequence[Need], progress: Progress, log: Path) -> None:
    """Install what is missing; it is silent and instant where nothing is."""
    packages = missing(needs)
    if not packages:
        return
    by_hand = f"install them by hand: apt-get install {' '.join(packages)}"
    if shutil.which("apt-get") is None:
        raise StepFailed(f"missing: {', '.join(packages)}, and this is not a Debian machine", by_hand)
    with progress.step(f"Install Debian packages: {' '.join(packages)}") as note:
        try:
            argv = [*_as_root(), "sh", "-c", INSTALL_SCRIPT, "install", *packages]
        except StepFailed as failure:
            raise StepFailed(failure.why, by_hand) from None
        code = longrun.run(argv, log, note, longrun.last_line, keep_stdin=True)
        if code != 0:
            raise StepFailed(f"apt-get ended with status {code}", by_hand, log)
        if still := missing(needs):
            raise StepFailed(f"still missing after the install: {', '.join(still)}", by_hand, log)
