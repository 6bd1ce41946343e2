"""Turns a list of names into hosts on this machine: each with a network, a host name and a /tmp of its own.

Separate from `slurm` because nothing here knows Slurm: a host is a process that holds namespaces, and whatever shall
run on it is started through `enter()`. The hosts hang on a switch (a bridge in a namespace of its own); the machine
itself, where the portal runs, is one more station on it. All of this belongs to the kernel only as long as a process
uses it: when the run's processes are ended, by it, by its leash or by the next run, no interface and no address is
left, whatever happened before.

    machine (portal)  198.18.N.1 ──┐
                                 switch
    ctl  198.18.N.2 ───────────────┤├─ gpu01  198.18.N.11
                                   └─ gpu02  198.18.N.12
"""

from __future__ import annotations

import functools
import os
import random
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import apt, proctable
from devstack.procs import Child, Command
from devstack.rundir import RunDir
from devstack.say import StepFailed

NETWORKS = range(1, 255)
# Of the range that is set aside for benchmarks of networks (RFC 2544), so that no network that anybody uses is hidden.
NETWORK, LONE_NETWORK = "198.18", "198.19"
# "berth" in ASCII, in the range of networks of one's own (RFC 4193).
NETWORK6 = "fd62:6572:7468"
# Where nothing better leads: what is sent to a host that is gone must not leave the machine by its default route, and
# the kernel may still repeat a segment when all of our processes have ended. So these two routes stay.
NOWHERE = (
    f"route replace unreachable {NETWORK}.0.0/15 metric 65535",
    f"route replace unreachable {NETWORK6}::/48 metric 65535",
)
FIRST_NODE, LAST_NODE = 11, 250
PRIVATE_TMP = Path("/tmp")
READY_S = 30.0
# What holds a host: it leaves the machine's mounts, then covers what a real node would not share. `sleep` is the sign
# that all of it is done.
HOLD = r"""
set -eu
name=$1 folder=$2; shift 2
echo "$name" > /proc/sys/kernel/hostname
for shared in "$@"; do
    mkdir -p "$folder/tmp${shared#/tmp}"
    mount --bind "$shared" "$folder/tmp${shared#/tmp}"
done
mount --rbind "$folder/tmp" /tmp
mount -t tmpfs -o mode=1777 tmpfs /dev/shm
mount --bind "${folder%/*}/names" /etc/hosts
exec sleep infinity
"""


@dataclass(frozen=True)
class Host:
    """One host. `address6` is "" where the machine has no IPv6; `tmp` is its /tmp as the machine sees it."""

    name: str
    address: str
    address6: str
    cable: str  # the name of its cable's end in the switch
    tmp: Path


@functools.cache
def why_not() -> str:
    """Return why hosts of their own cannot be made here, in words, or "" where they can. It is tried once."""
    if os.getuid() != 0:
        return "only root may make network namespaces"
    if absent := [name for name in ("ip", "unshare", "nsenter") if apt.find_program(name) is None]:
        return f"the program {absent[0]} is not installed"
    try_it = "ip link add berth-try type veth peer name berth-tried && ip link add berth-br type bridge"
    done = _run(["unshare", "--net", "--mount", "--uts", "sh", "-ec", f"mount -t tmpfs none /tmp; {try_it}"])
    return "" if done.returncode == 0 else f"this machine does not let us: {done.stderr.strip()[-200:]}"


def _run(argv: Sequence[str], text: str = "", timeout_s: float = 30.0) -> subprocess.CompletedProcess[str]:
    env = {"PATH": apt.SERVER_PATH}
    return subprocess.run(
        list(argv), input=text, env=env, capture_output=True, text=True, timeout=timeout_s, check=False
    )


def has_ipv6() -> bool:
    try:
        return Path("/proc/sys/net/ipv6/conf/all/disable_ipv6").read_text().strip() == "0"
    except OSError:
        return False


def hidden_by_tmp(paths: Sequence[Path]) -> list[Path]:
    """Return which of these folders lie below /tmp, without those that lie in another of them."""
    below = sorted({path for path in paths if path.is_relative_to(PRIVATE_TMP) and path != PRIVATE_TMP})
    return [
        path for path in below if not any(path != outer and path.is_relative_to(outer) for outer in below)
    ]


class Hosts:
    """The hosts of a private cluster.

    After `start()`, `enter(name)` is what to put before a command that shall run there. `stop()` leaves
    nothing. `shared` are the folders that every host sees, wherever they lie: what is on a cluster's shared
    file system.
    """

    def __init__(self, run_dir: RunDir, home: Path, names: Sequence[str], shared: Sequence[Path]) -> None:
        if len(names) > LAST_NODE - FIRST_NODE + 1:
            raise StepFailed(f"{len(names)} hosts do not fit into one network", "ask for fewer nodes")
        self._run_dir = run_dir
        self._home = home / "hosts"
        self._names = tuple(names)
        self._shared = hidden_by_tmp(shared)
        self._number = 0
        self._holders: dict[str, Child] = {}
        self._six = has_ipv6()
        self.controller = self._host("ctl", 2)

    @property
    def portal(self) -> str:
        """Return the machine's own address on the switch, where nodes find the portal."""
        return f"{NETWORK}.{self._number}.1"

    @property
    def portal6(self) -> str:
        return self._address6(1)

    def __getitem__(self, name: str) -> Host:
        if name == self.controller.name:
            return self.controller
        return self._host(name, FIRST_NODE + self._names.index(name))

    def all(self) -> list[Host]:
        return [self.controller, *(self[name] for name in self._names)]

    def enter(self, name: str) -> list[str]:
        """Return what comes before a command so that it runs on that host, in the working folder /."""
        kinds = ("--net", "--mount", "--uts")
        return [apt.program("nsenter"), f"--target={self._holders[name].pid}", *kinds, "--wd=/", "--"]

    def run(self, name: str, *argv: str, text: str = "", timeout_s: float = 30.0) -> str:
        """Run a command on that host; its output. Raises StepFailed with what it said on standard error."""
        done = _run([*self.enter(name), *argv], text, timeout_s)
        if done.returncode != 0:
            raise StepFailed(f"{' '.join(argv)} on {name}: status {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    def start(self) -> None:
        shutil.rmtree(self._home, ignore_errors=True)
        self._home.mkdir(mode=0o755)
        for folder in self._shared:
            folder.mkdir(parents=True, exist_ok=True)
        self._hold("switch", ["sleep", "infinity"], ["--net"])
        self._plug_in_the_machine()
        self.controller = self._host("ctl", 2)
        self._write_names()
        for host in self.all():
            host.tmp.mkdir(parents=True)
            host.tmp.chmod(0o1777)
            told = [host.name, str(host.tmp.parent), *map(str, self._shared)]
            self._hold(host.name, ["sh", "-c", HOLD, "hold", *told], ["--net", "--mount", "--uts"])
        for host in self.all():
            self._plug_in(host)

    def stop(self) -> None:
        """End the holders; what else runs on the hosts is ended by whoever started it."""
        for child in reversed(self._holders.values()):
            child.stop()
        self._holders.clear()
        shutil.rmtree(self._home, ignore_errors=True)

    def _host(self, name: str, last: int) -> Host:
        address = f"{NETWORK}.{self._number}.{last}"
        return Host(name, address, self._address6(last), f"n{last}", self._home / name / "tmp")

    def _address6(self, last: int) -> str:
        """Return an address of our own unique local network, with the number of this run; "" without IPv6."""
        return f"{NETWORK6}:{self._number:x}::{last:x}" if self._six else ""

    def _hold(self, name: str, argv: list[str], kinds: list[str]) -> None:
        command = ["unshare", *kinds, "--", *argv]
        child = Child(Command(f"host-{name}", command, {"PATH": apt.SERVER_PATH}, grace_s=3), self._run_dir)
        self._holders[name] = child

        def ready() -> bool:
            return proctable.name(child.pid) == "sleep"

        child.wait_ready(ready, READY_S)

    def _write_names(self) -> None:
        """Write the names: every node knows every other by name, and itself by the address that others
        use."""
        here = os.uname().nodename
        lines = ["127.0.0.1 localhost", "::1 localhost", f"{self.portal} {here} {here.split('.')[0]}"]
        lines += [f"{host.address} {host.name}" for host in self.all()]
        (self._home / "names").write_text("\n".join(dict.fromkeys(lines)) + "\n")

    # The cables. The interface's name holds the network's number, so that the kernel gives it to one run only.

    def _plug_in_the_machine(self) -> None:
        taken = _run(["ip", "-o", "route", "show", "table", "all"]).stdout
        free = [number for number in NETWORKS if f"{NETWORK}.{number}." not in taken]
        switch = self._holders["switch"].pid
        self._ip("", NOWHERE if self._six else NOWHERE[:1])
        said = ""
        for number in random.SystemRandom().sample(free, len(free)):
            link = f"berth{number}"
            done = _run(
                ["ip", "link", "add", link, "type", "veth", "peer", "name", "up0", "netns", str(switch)]
            )
            if done.returncode == 0:
                self._number = number
                lines = [f"addr add {self.portal}/24 dev {link}", f"link set {link} up"]
                if self._six:
                    lines.append(f"addr add {self.portal6}/64 dev {link} nodad")
                self._ip("", lines)
                base = ["link set lo up", "link add br0 type bridge mcast_snooping 0", "link set br0 up"]
                self._ip("switch", [*base, "link set up0 master br0", "link set up0 up"])
                return
            said = done.stderr.strip()
        raise StepFailed(f"no network for the hosts between {NETWORK}.1.0 and {NETWORK}.254.0: {said}")

    def _plug_in(self, host: Host) -> None:
        pid = self._holders[host.name].pid
        cable = [f"link add {host.cable} type veth peer name eth0 netns {pid}", f"link set {host.cable} up"]
        self._ip("switch", [*cable, f"link set {host.cable} master br0"])
        lines = ["link set lo up", "link set eth0 up", f"addr add {host.address}/24 dev eth0"]
        if self._six:
            lines.append(f"addr add {host.address6}/64 dev eth0 nodad")
        self._ip(host.name, lines)

    def _ip(self, name: str, lines: Sequence[str]) -> None:
        """Give these commands to `ip`, on that host, or on the machine where the name is empty."""
        prefix = [*self._only_network(name)] if name else []
        done = _run([*prefix, "ip", "-batch", "-"], "\n".join(lines) + "\n")
        if done.returncode != 0:
            raise StepFailed(f"ip on {name or 'this machine'}: {done.stderr.strip()} ({'; '.join(lines)})")

    def _only_network(self, name: str) -> list[str]:
        return ["nsenter", f"--target={self._holders[name].pid}", "--net", "--"]

    # What tests do to the network.

    def cut(self, name: str) -> None:
        """Cut a host off: nothing goes in or out any more, and nobody is told, as of a cable pulled on the
        way."""
        self._ip("switch", [f"link set {self[name].cable} nomaster"])

    def mend(self, name: str) -> None:
        """Undo `cut` and `close_to_portal`."""
        self._ip("switch", [f"link set {self[name].cable} master br0"])
        if apt.find_program("nft"):
            self.run(name, "nft", "flush", "ruleset")

    def close_to_portal(
        self, name: str, *, refuse: bool = False, allow: tuple[int, int] | None = None
    ) -> None:
        """Close a host to the portal: its new connections are dropped in silence, or refused.

        `allow` names ports (first and last) that stay open. Connections from the host to the portal, and what
        they carry back, go on.
        """
        verdict = "reject with tcp reset" if refuse else "drop"
        ports = f"dport != {allow[0]}-{allow[1]} " if allow else "dport 1-65535 "
        sources = [f"ip saddr {self.portal}"] + ([f"ip6 saddr {self.portal6}"] if self._six else [])
        rules = [f"{source} tcp {ports} ct state new {verdict}" for source in sources]
        head = "type filter hook input priority 0; policy accept;"
        text = "\n".join(["flush ruleset", "table inet berth {", "chain in {", head, *rules, "}", "}"]) + "\n"
        self.run(name, apt.program("nft"), "-f", "-", text=text)

    def add_lone_interface(self, name: str, interface: str = "ib0") -> str:
        """Give a host a second interface, on a network that reaches nobody; return its address."""
        host = self[name]
        address = host.address.replace(f"{NETWORK}.", f"{LONE_NETWORK}.")
        lone = f"link add {interface} type veth peer name {host.cable}x netns {self._holders['switch'].pid}"
        self._ip(name, [lone, f"link set {interface} up", f"addr add {address}/24 dev {interface}"])
        self._ip("switch", [f"link set {host.cable}x up"])
        return address
