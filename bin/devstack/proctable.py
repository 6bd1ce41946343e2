"""Turns /proc into answers about processes that may not be our children: alive, the same one, whose.

Separate from `procs` because a restarted program and the leash must find and end processes that somebody else
started. A pid alone is never trusted: it is paired with the kernel's start time, or with a mark in the
environment.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path

# Not BERTH_…: the portal refuses settings it does not know.
MARK = "DEVSTACK_RUN"
NODE_MARK = "DEVSTACK_NODE"


def _stat(pid: int) -> list[str]:
    """Fields of /proc/PID/stat from the state on (the command name may hold spaces); empty when gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def start_ticks(pid: int) -> int | None:
    """When the kernel started this process, or None when it is gone or only a zombie is left."""
    fields = _stat(pid)
    return int(fields[19]) if fields and fields[0] not in "ZX" else None


def pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def with_environment(variable: str, value: str, prefix: bool = False) -> set[int]:
    """Processes that carry VARIABLE=value (with `prefix`: any value that begins so) in their environment."""
    wanted = f"{variable}={value}".encode()
    found = set()
    for pid in pids():
        try:
            entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if any(entry.startswith(wanted) if prefix else entry == wanted for entry in entries):
            found.add(pid)
    return found - {os.getpid()}


def descendants(roots: set[int]) -> set[int]:
    """The processes below these in the process tree, without them."""
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
    """A signal to a process or its group; one that is gone needs none."""
    try:
        (os.killpg if group else os.kill)(pid, number)
    except (ProcessLookupError, PermissionError):
        # PermissionError: the pid belongs to somebody else by now, so ours is gone.
        return


def wait_gone(pid: int, ticks: int, timeout_s: float) -> bool:
    """Waits until this very process is gone (or a zombie); says whether it is."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while start_ticks(pid) == ticks:
        if time.monotonic() >= deadline:
            return False
        pause.wait(0.05)
    return True


def end(pid: int, ticks: int, number: int = signal.SIGTERM, grace_s: float = 10.0) -> None:
    """Asks the process to stop, waits for the grace, then kills its whole process group."""
    if start_ticks(pid) == ticks:
        send(pid, number)
        if not wait_gone(pid, ticks, grace_s):
            send(pid, signal.SIGKILL, group=True)
            send(pid, signal.SIGKILL)
            wait_gone(pid, ticks, 5.0)


def sweep(variable: str, value: str, prefix: bool = False) -> int:
    """Kills every process that carries the mark, and everything below it; returns how many were found.

    Twice at least, because a process may fork between the look and the kill.
    """
    total = 0
    for _ in range(5):
        marked = with_environment(variable, value, prefix)
        doomed = {pid for pid in marked | descendants(marked) if start_ticks(pid) is not None} - {os.getpid()}
        if not doomed:
            break
        total += len(doomed)
        ticks = {pid: start_ticks(pid) for pid in doomed}
        for pid in doomed:
            send(pid, signal.SIGKILL)
        for pid, started in ticks.items():
            if started is not None:
                wait_gone(pid, started, 5.0)
    return total
