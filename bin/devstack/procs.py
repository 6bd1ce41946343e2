"""Turns a command line into a child process that is watched from start to end.

Each child has its own session, a log file and a pid record (pid + kernel start time), so that this program,
its leash or the next run can end exactly that process and nothing else.
"""

from __future__ import annotations

import json
import os
import pwd
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from devstack import proctable
from devstack.rundir import RunDir
from devstack.say import StepFailed

POLL_S = 0.05


def wait_until(probe: Callable[[], bool], timeout_s: float) -> bool:
    """Ask until the answer is yes or the time is over; return which."""
    pause = threading.Event()
    deadline = time.monotonic() + timeout_s
    while True:
        if probe():
            return True
        if time.monotonic() >= deadline:
            return False
        pause.wait(POLL_S)


def foreground(argv: Sequence[str], cwd: Path, env: Mapping[str, str]) -> int:
    """Run a program that owns the terminal, and wait until it has tidied up; return its exit status.

    Ctrl-C reaches it from the terminal, so we only wait; a SIGTERM sent to us alone is passed on as Ctrl-C.
    """
    process = subprocess.Popen(list(argv), cwd=cwd, env=dict(env))
    passed_on = {signal.SIGTERM: True, signal.SIGHUP: True, signal.SIGINT: False}

    def answer(number: int, _frame: FrameType | None) -> None:
        if passed_on[signal.Signals(number)]:
            process.send_signal(signal.SIGINT)

    before = {number: signal.signal(number, answer) for number in passed_on}
    try:
        return process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@dataclass(frozen=True)
class Command:
    """A command to run. `user` is a name to become (only root can); `env` is complete, nothing is
    inherited."""

    name: str
    argv: Sequence[str]
    env: Mapping[str, str]
    user: str | None = None
    cwd: Path | None = None
    stop_signal: int = signal.SIGTERM
    grace_s: float = 10.0


class Child:
    """A started command. Its log is `<run dir>/log/<name>.log`, its record `<run dir>/pids/<name>.json`."""

    def __init__(self, command: Command, run_dir: RunDir) -> None:
        self.command = command
        self.log = run_dir.log_dir / f"{command.name}.log"
        self._record = run_dir.pid_dir / f"{command.name}.json"
        owner = pwd.getpwnam(command.user) if command.user else None
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                list(command.argv),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**command.env, proctable.MARK: run_dir.mark},
                cwd=command.cwd or "/",
                start_new_session=True,
                user=owner.pw_uid if owner else None,
                group=owner.pw_gid if owner else None,
                extra_groups=[] if owner else None,
            )
        self.pid = self._process.pid
        record = {
            "pid": self.pid,
            "ticks": proctable.start_ticks(self.pid) or 0,
            "mark": run_dir.mark,
            "mounts": proctable.mounts_of(os.getpid()),
            "signal": int(command.stop_signal),
            "grace_s": command.grace_s,
        }
        self._record.write_text(json.dumps(record))

    def returncode(self) -> int | None:
        """Return None while it runs; its exit status (negative: the signal) afterwards."""
        return self._process.poll()

    @property
    def alive(self) -> bool:
        return self.returncode() is None

    def wait_ready(self, probe: Callable[[], bool], timeout_s: float, remedy: str = "") -> None:
        """Wait until the probe says yes; a child that ends, or takes too long, is a failed step."""
        if wait_until(lambda: not self.alive or probe(), timeout_s) and self.alive:
            return
        name = self.command.name
        code = self.returncode()
        self.kill()
        why = (
            f"{name} was not ready after {timeout_s:.0f} s"
            if code is None
            else f"{name} ended with status {code}"
        )
        raise StepFailed(why, remedy or f"read {self.log}", self.log)

    def stop(self) -> None:
        """Ask it to stop, wait for its grace, then kill what is left of its process group."""
        if self.alive:
            proctable.send(self.pid, self.command.stop_signal)
            self._await_exit(self.command.grace_s)
        self.kill()

    def kill(self) -> None:
        """Send SIGKILL to the whole process group."""
        if self._process.returncode is None:
            # Not reaped yet, so the kernel cannot have given the group's number to anybody else.
            proctable.send(self.pid, signal.SIGKILL, group=True)
            self._process.wait()
        self._record.unlink(missing_ok=True)

    def _await_exit(self, timeout_s: float) -> None:
        def ended() -> bool:
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            return os.waitid(os.P_PID, self.pid, options) is not None

        wait_until(ended, timeout_s)
