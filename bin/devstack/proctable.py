"""Turns /proc into answers about processes that may not be our children: alive, the same one, whose.

Separate from `procs` because a restarted program and the leash must find and end processes that somebody else
started. A pid alone is never trusted: it is paired with the kernel's start time, or with a mark in the
environment. Slurm's keeper of a job (slurmstepd) has had none since 24.11: it is known by its socket in the cluster's
folder, and in a tree (see `trees`) by the mounts that it shares with the slurmd that started it.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

# Not BERTH_…: the portal refuses settings it does not know.
MARK = "DEVSTACK_RUN"
NODE_MARK = "DEVSTACK_NODE"


def _stat(pid: int) -> list[str]:
    """Return the fields of /proc/PID/stat from the state on (the command name may hold spaces); none when
    it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start_ticks(pid: int) -> int | None:
    """Return when the kernel started this process, or None when it is gone or only a zombie is left."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def name(pid: int) -> str:
    """Return what the kernel calls the program that this process runs now; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _environment(pid: int) -> list[bytes]:
    """Return the VARIABLE=value entries the process was started with; none where it is gone or not ours to
    read."""
    try:
        return Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return []


def with_environment(variable: str, value: str, prefix: bool = False) -> set[int]:
    """Find processes that carry VARIABLE=value (with `prefix`: any value that begins so) in their
    environment."""
    wanted = f"{variable}={value}".encode()

    def carries(pid: int) -> bool:
        return any(entry.startswith(wanted) if prefix else entry == wanted for entry in _environment(pid))

    return {pid for pid in pids() if carries(pid)} - {os.getpid()}


def keepers(folder: str) -> set[int]:
    """Return the slurmstepd processes that listen at a socket below this folder."""
    found = set()
    bound: dict[int, set[str]] = {}  # by network namespace: each shows the sockets made in it
    for pid in pids():
        if not name(pid).startswith("slurmstepd"):
            continue
        try:
            network = Path(f"/proc/{pid}/ns/net").stat().st_ino
            if network not in bound:
                bound[network] = _bound_below(
                    folder, Path(f"/proc/{pid}/net/unix").read_text(errors="replace")
                )
            files = [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
        except OSError:
            continue  # gone, or not ours to look at
        if bound[network].intersection(files):
            found.add(pid)
    return found


def _bound_below(folder: str, table: str) -> set[str]:
    """Return what links in /proc/PID/fd are called that lead to a socket with a path below the folder."""
    rows = [line.split(maxsplit=7) for line in table.splitlines()[1:]]
    return {f"socket:[{row[6]}]" for row in rows if len(row) == 8 and row[7].startswith(f"{folder}/")}


def mounts_of(pid: int) -> int:
    """Return the number of the mount namespace that a process is in; 0 where it is gone, or not ours to look at."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    except OSError:
        return 0


class Mounts:
    """The mount namespaces of some processes, except our own and those in `besides`. They are held open until `close`,
    so that the kernel gives their numbers to no others when the last of these processes ends."""

    def __init__(self, members: Iterable[int], besides: Iterable[int] = ()) -> None:
        self._held: dict[int, int] = {}
        others = {mounts_of(os.getpid()), *besides}
        for pid in members:
            try:
                held = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
            except OSError:
                continue
            number = os.fstat(held).st_ino
            if number in others or number in self._held:
                os.close(held)
            else:
                self._held[number] = held

    def processes(self) -> set[int]:
        """Return all that is in one of them, whoever started it and whatever it has in its environment."""
        return {pid for pid in pids() if mounts_of(pid) in self._held} if self._held else set()

    def close(self) -> None:
        for held in self._held.values():
            os.close(held)
        self._held.clear()


def of_jobs(slurm_conf: str) -> set[int]:
    """Find processes of jobs of that cluster. Its SLURM_CONF alone would not do: a person's shell may have
    it too."""
    return {
        pid
        for pid in with_environment("SLURM_CONF", slurm_conf)
        if any(entry.startswith(b"SLURM_JOB_ID=") for entry in _environment(pid))
    }


def descendants(roots: set[int]) -> set[int]:
    """Return the processes below these in the process tree, without them."""
    children: dict[int, list[int]] = {}
    for pid in pids():
        if fields := _stat(pid):
            children.setdefault(int(fields[1]), []).append(pid)
    found: set[int] = set()
    todo = list(roots)
    while todo:
        for child in children.get(todo.pop(), []):
            if child not in found:
                found.add(child)
                todo.append(child)
    return found - roots


def send(pid: int, number: int, group: bool = False) -> None:
    """Send a signal to a process or its group; one that is gone needs none."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        # PermissionError: the pid belongs to somebody else by now, so ours is gone.
        return


def wait_gone(pid: int, ticks: int, timeout_s: float) -> bool:
    """Wait until this very process is gone (or a zombie); return whether it is."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while start_ticks(pid) == ticks:
        if time.monotonic() >= deadline:
            return False
        pause.wait(0.05)
    return True


def end(pid: int, ticks: int, number: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """Ask the process to stop, wait for the grace, then kill its whole process group."""
    if start_ticks(pid) == ticks:
        send(pid, number)
        if not wait_gone(pid, ticks, grace_s):
            send(pid, signal.SIGKILL, group=True)
            send(pid, signal.SIGKILL)
            wait_gone(pid, ticks, 5.0)


def sweep(find: Callable[[], set[int]]) -> None:
    """Kill every process found, and everything below those, as one: none of them sees another die.

    They are stopped before the first is killed: a keeper that outlives its child by a moment may tell
    somebody (slurmstepd tells the controller "failed" of a job that was lost with its node). And they are
    looked for until no new one is found, because a process may fork between the look and the signal.
    """
    frozen: dict[int, int] = {}
    for _ in range(10):
        roots = find() | set(frozen)
        alive = {pid: start_ticks(pid) for pid in roots | descendants(roots) if pid != os.getpid()}
        new = {pid: ticks for pid, ticks in alive.items() if ticks is not None and frozen.get(pid) != ticks}
        if not new:
            break
        for pid in new:
            send(pid, signal.SIGSTOP)
        frozen |= new
    for pid, ticks in frozen.items():
        if start_ticks(pid) == ticks:
            send(pid, signal.SIGKILL)
    for pid, ticks in frozen.items():
        wait_gone(pid, ticks, 5.0)
