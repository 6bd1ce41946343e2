"""Process trees on Linux: who descends from a process, how much memory they hold, and how to end them all.

Standard library and /proc only, because three small programs share it: the supervisor (in the batch shell's
pid), the warden (between agent and engine) and the agent. Killing one pid is never enough here: vLLM's API
server has children of its own, which outlive it when it dies hard.
"""

from __future__ import annotations

import ctypes
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

PR_SET_PDEATHSIG = 1
PR_SET_CHILD_SUBREAPER = 36

_libc = ctypes.CDLL(None, use_errno=True)


def _prctl(option: int, value: int) -> None:
    if _libc.prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def become_subreaper() -> None:
    """Make orphans among our descendants our children instead of init's, so that they can be found and
    ended."""
    _prctl(PR_SET_CHILD_SUBREAPER, 1)


def die_with(parent_pid: int) -> None:
    """Have this process killed when the thread that started it ends. Exit if that happened already."""
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def bound_child() -> Callable[[], None]:
    """Return a `preexec_fn` for single-threaded starters: the child dies with us and has a clean signal
    mask."""
    parent = os.getpid()

    def prepare() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        die_with(parent)

    return prepare


def _table() -> dict[int, tuple[int, bool]]:
    """Return the parent of every process by pid, and whether it is a zombie."""
    found = {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit():
            continue
        try:
            # The command's name may hold blanks and brackets: the fields start after the last ")".
            fields = Path(entry.path, "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        found[int(entry.name)] = (int(fields[1]), fields[0] == "Z")
    return found


def descendants(root: int) -> list[int]:
    """List live processes under `root`, without it.

    Zombies hold nothing and only wait to be reaped, but the way down leads through them: a process shows as
    one while other threads of it are still dying with its children.
    """
    table = _table()
    children: dict[int, list[int]] = {}
    for pid, (parent, _) in table.items():
        children.setdefault(parent, []).append(pid)
    found: list[int] = []
    queue = [root]
    while queue:
        below = children.get(queue.pop(), [])
        found += [pid for pid in below if not table[pid][1]]
        queue += below
    return found


def kill_descendants(root: int, within_s: float = 10.0) -> list[int]:
    """Kill everything below `root` until nothing is left; return what was still there at the end.

    It is looked up again after every pass: a process that forks while it is being killed leaves a child that
    only the next look finds. This reaps, so `root` must be the calling process and must not wait for its
    children elsewhere.
    """
    end = time.monotonic() + within_s
    while left := descendants(root):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        reap()
        if time.monotonic() > end:
            return left
        time.sleep(0.01)
    return []


def reap() -> dict[int, int]:
    """Collect ended children without waiting, and return their wait status by pid."""
    ended: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended
        if pid == 0:
            return ended
        ended[pid] = status


def memory_mb(root: int) -> int:
    """Return the resident memory of `root` and everything below it, in MiB. Shared pages count once per
    process."""
    page = os.sysconf("SC_PAGE_SIZE")
    pages = 0
    for pid in [root, *descendants(root)]:
        try:
            pages += int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        except (OSError, IndexError):
            continue
    return pages * page // 2**20
