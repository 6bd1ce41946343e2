"""Turns a crashed agent into a new one inside the same job, without anything the old one left behind.

It lives in the batch shell's pid (the job script `exec`s it), because that is where Slurm sends `--signal=B:`
and because a job ends when that process does. It holds no state worth losing: an agent that starts again
registers again and is told by the portal what to run.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from gpuworker import exits, leftovers, proctree

FORWARDED = (signal.SIGUSR2, signal.SIGTERM, signal.SIGINT)
# A unix socket's path has at most 107 bytes; the pilot's folder and the socket's name need about 30.
LONGEST_SCRATCH = 70
MOST_SECRET_BYTES = 64 * 1024
_HANDLED = {*FORWARDED, signal.SIGCHLD}


@dataclass
class Restarts:
    """The limit of restarts: an agent may be started again `most` times in `window_s`, each after a longer
    pause."""

    most: int = 5
    window_s: float = 600.0
    first_pause_s: float = 0.2
    at: list[float] = field(default_factory=list)

    def pause_s(self, now: float) -> float | None:
        """Return the pause before the next start in seconds, or None when there have been too many."""
        self.at = [t for t in self.at if t > now - self.window_s]
        if len(self.at) >= self.most:
            return None
        self.at.append(now)
        return float(self.first_pause_s * 4 ** (len(self.at) - 1))


def say(text: str) -> None:
    print(f"gpuworker: {text}", file=sys.stderr, flush=True)


def run(secret: str) -> int:
    """Run agents until the job is over, and return the exit code of the job.

    `secret` is the path of the pilot's file, or "-": its text comes on standard input.
    """
    if int(os.environ.get("SLURM_RESTART_COUNT") or 0) > 0:
        say(
            "Slurm started this job again after a requeue (SLURM_RESTART_COUNT > 0); pilots are never requeued"
        )
        return exits.RESTARTED_JOB
    signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
    proctree.become_subreaper()
    scratch = os.environ.get("BERTH_SCRATCH") or tempfile.gettempdir()
    if len(os.fsencode(scratch)) > LONGEST_SCRATCH:
        say(f"BERTH_SCRATCH={scratch} is too long for the path of a unix socket; using /tmp")
        scratch = "/tmp"
    try:
        for left in leftovers.sweep(scratch):
            say(f"removed {left}, which a pilot that was killed had left behind")
        folder = leftovers.marked_folder(scratch)
    except OSError as error:
        why = f"no scratch folder under {scratch} (scratch): {error}"
        say(why)
        # Only here: this process lives as long as the job and has no other use for an HTTP client.
        from gpuworker import lastword

        lastword.tell_now(secret, why)
        return exits.CONFIG
    try:
        if secret == "-":
            try:
                secret = _kept_secret(folder)
            except OSError as error:
                say(f"the secret cannot be kept in {folder}: {error}")
                return exits.CONFIG
        return _keep_running(secret, folder)
    finally:
        proctree.kill_descendants(os.getpid())
        shutil.rmtree(folder, ignore_errors=True)


def _kept_secret(folder: str) -> str:
    """Return the file, in the pilot's own folder, that now holds what came on standard input: each agent
    reads it anew."""
    path = Path(folder, "secret.json")
    with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
        file.write(sys.stdin.buffer.read(MOST_SECRET_BYTES))
    return str(path)


def _keep_running(secret: str, folder: str) -> int:
    restarts = Restarts()
    while True:
        agent = subprocess.Popen(
            [sys.executable, "-m", "gpuworker.agent", "--secret", secret],
            stdin=subprocess.DEVNULL,
            env={**os.environ, "BERTH_PILOT_DIR": folder, "PYTHONPATH": _python_path()},
            preexec_fn=proctree.bound_child(),
        )
        code, ending = _wait(agent.pid)
        if left := proctree.descendants(os.getpid()):
            say(f"agent {agent.pid} left {len(left)} processes; ending them")
            proctree.kill_descendants(os.getpid())
        if code in exits.FINAL:
            return code
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        if ending:
            say(f"the agent died ({how}) after the job was told to end")
            return 1
        pause_s = restarts.pause_s(time.monotonic())
        if pause_s is None:
            say(
                f"the agent died ({how}) {restarts.most} times in {restarts.window_s / 60:.0f} min; giving up"
            )
            return 1
        say(f"the agent died ({how}); starting it again in {pause_s:.1f} s")
        if signal.sigtimedwait([signal.SIGTERM, signal.SIGINT], pause_s):
            return 1


def _wait(agent: int) -> tuple[int, bool]:
    """Wait until the agent has ended; return its exit code (negative = signal), and whether the job was
    told to end."""
    ending = False
    while True:
        number = signal.sigwait(_HANDLED)
        if number == signal.SIGCHLD:
            # One SIGCHLD may stand for many children; orphans that came to us are collected here too.
            ended = proctree.reap()
            if agent in ended:
                return os.waitstatus_to_exitcode(ended[agent]), ending
            continue
        ending = ending or number != signal.SIGUSR2
        try:
            os.kill(agent, signal.SIGTERM if number == signal.SIGINT else number)
        except ProcessLookupError:
            continue


def _python_path() -> str:
    """Return the folder this package was found in first: the batch shell's working folder need not stay
    the same."""
    root = str(Path(__file__).resolve().parent.parent)
    rest = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p != root]
    return os.pathsep.join([root, *rest])
