"""Turns a command that takes minutes into a log and a line now and then; and a folder in the cache into a lock.

What apt, pip and the training of the demo model have in common: people wait for them, two runs may want the same
result at once, and an interrupted one must not go on in the background.
"""

from __future__ import annotations

import contextlib
import fcntl
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from devstack import proctable

REPORT_EVERY_S = 10.0


def run(
    argv: Sequence[str],
    log: Path,
    note: Callable[[str], None],
    describe: Callable[[str], str],
    *,
    env: Mapping[str, str] | None = None,
    keep_stdin: bool = False,
) -> int:
    """Run a program with its output appended to the log; every 10 s note `describe(what it said so far)`.

    `keep_stdin` is for sudo, which may have to ask for a password.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    stdin = None if keep_stdin else subprocess.DEVNULL
    with log.open("ab") as out:
        process = subprocess.Popen(
            list(argv), stdin=stdin, stdout=out, stderr=subprocess.STDOUT, env=env, cwd="/"
        )
    pause = threading.Event()
    told = time.monotonic()
    try:
        while process.poll() is None:
            pause.wait(0.1)
            if time.monotonic() - told >= REPORT_EVERY_S:
                told = time.monotonic()
                note(describe(log.read_text(errors="replace")))
    except BaseException:
        proctable.send(process.pid, signal.SIGTERM)
        process.wait()
        raise
    return process.returncode


@contextlib.contextmanager
def only_one(folder: Path, note: Callable[[str], None]) -> Iterator[None]:
    """Let several processes that want to make this folder do so one at a time; say so while this one
    waits."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_name(f"{folder.name}.lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            note("another process is at it; waiting for that")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def last_line(output: str) -> str:
    """Return the last line of an output, short enough for a progress line."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    return lines[-1][:90] if lines else "starting"
