"""Turns a folder into the home of one running service: locked, cleaned of an earlier crash, on the leash.

Separate because PostgreSQL, Redis, Slurm and the site all need the same four things: nobody else starts in
the same folder, what a crashed run left is ended first, everything dies with its owner, and a place short
enough for unix sockets and reachable for another user.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shutil
import stat
from pathlib import Path
from typing import IO

from devstack import leash, proctable
from devstack.say import StepFailed

SHORT_LIMIT = 60  # unix socket paths end at 107 bytes; Slurm adds names of its own
_leash = leash.Leash()
_watched: set[str] = set()


def reachable(path: Path, uid: int, gid: int) -> bool:
    """Tell whether that user may pass through every existing folder on the way to (and including) the
    path."""
    for folder in [path, *path.parents]:
        try:
            info = folder.stat()
        except FileNotFoundError:
            continue
        except PermissionError:
            return False
        if uid == 0:
            continue
        bit = stat.S_IXUSR if info.st_uid == uid else stat.S_IXGRP if info.st_gid == gid else stat.S_IXOTH
        if not info.st_mode & bit:
            return False
    return True


def substitute(path: Path, uid: int) -> Path:
    """Return a short folder in /var/tmp that stands for this path: same path and user, same folder; only
    theirs."""
    digest = hashlib.sha256(f"{uid}:{path}".encode()).hexdigest()[:12]
    folder = Path("/var/tmp") / f"berth-{digest}"
    try:
        folder.mkdir(mode=0o700)
        os.chown(folder, uid, -1)
    except FileExistsError:
        info = folder.lstat()
        if not stat.S_ISDIR(info.st_mode) or info.st_uid not in (uid, os.getuid()):
            raise StepFailed(f"{folder} belongs to somebody else", f"remove {folder}") from None
    return folder


class RunDir:
    """One service's folder while it runs. `open()` locks and cleans, `close()` lets go."""

    def __init__(self, path: Path, log_dir: Path | None = None) -> None:
        self.path = path.resolve()
        self.pid_dir = self.path / "pids"
        self.log_dir = log_dir or self.path / "log"
        self.mark = f"{self.path}#{secrets.token_hex(6)}"
        self.slurm_conf = ""  # of a cluster: its jobs are ended with it
        self._lock: IO[str] | None = None
        self._mounts = proctable.Mounts(())

    def open(self) -> None:
        self.pid_dir.mkdir(parents=True, exist_ok=True)
        self.log_dir.mkdir(parents=True, exist_ok=True)
        lock = (self.path / "lock").open("a+")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            owner = lock.read().strip() or "unknown"
            lock.close()
            raise StepFailed(
                f"{self.path} is in use by process {owner}",
                f"stop process {owner}, or set BERTH_RUN to another folder",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        self._lock = lock
        leash.end_all(self.pid_dir, f"{self.path}#", self.slurm_conf)
        for log in self.log_dir.glob("*.log"):
            log.replace(log.with_name(f"{log.name}.1"))  # a log begins with its run

    def watch(self, remove: list[Path] | None = None) -> None:
        """Let the leash end our processes (and remove these folders) from here on should we die."""
        _watched.add(self.mark)
        _leash.watch(self.pid_dir, self.mark, self.slurm_conf, [str(path) for path in remove or []])

    def close(self, remove: list[Path] | None = None) -> None:
        proctable.sweep(lambda: leash.leftovers(self.mark, self.slurm_conf) | self._mounts.processes())
        self._mounts.close()
        for folder in remove or []:
            shutil.rmtree(folder, ignore_errors=True)
        if self.mark in _watched:
            _watched.discard(self.mark)
            _leash.forget(self.mark)
            _leash.close_if_idle(len(_watched))
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def closing(self) -> None:
        """Say that the processes are about to be ended one by one: `close` then finds what they leave in their mounts."""
        self._mounts.close()
        self._mounts = leash.mounts_of_recorded(self.pid_dir, self.mark)

    def short(self, uid: int | None = None, gid: int | None = None) -> Path:
        """Return this folder, or its substitute in /var/tmp where it is too deep for sockets, or closed to
        that user."""
        uid = os.getuid() if uid is None else uid
        gid = os.getgid() if gid is None else gid
        if len(str(self.path)) <= SHORT_LIMIT and reachable(self.path, uid, gid):
            return self.path
        return substitute(self.path, uid)
