"""Turns "the agent is gone" and "the engine's main process is gone" into "the engine's whole tree is gone".

A small process between the agent and each engine. Its standard input is the leash: the agent holds the other
end and never lets a child inherit it, so end of file means that the agent died, however it died; the byte `t`
asks for a gentle end (SIGTERM to the engine). It is a subreaper, so vLLM's EngineCore processes, orphaned by a
kill -9 of the API server, become its children and are ended with the rest. It leaves SIGTERM and its like to the
agent: Slurm may signal every process of a job at once, and a drain needs its engines to live on for a moment.

Run with `-I -S -c` (see `command`), not `-m`: the environment belongs to the engine, not to this.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from pathlib import Path

from gpuworker import proctree

GENTLE = b"t"
_NOT_OURS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


def command(argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` under a warden."""
    root = str(Path(__file__).resolve().parent.parent)
    code = (
        f"import sys; sys.path.insert(0, {root!r}); from gpuworker import warden; warden.main(sys.argv[1:])"
    )
    return [sys.executable, "-I", "-S", "-c", code, *argv]


def main(argv: list[str]) -> None:
    # Handlers, not SIG_IGN: an ignored signal stays ignored over exec, and the engine must hear its SIGTERM.
    for number in _NOT_OURS:
        signal.signal(number, lambda *_: None)
    wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    proctree.become_subreaper()
    engine = subprocess.Popen(argv, stdin=subprocess.DEVNULL, preexec_fn=proctree.bound_child())
    status = _watch(engine.pid, wake_read)
    proctree.kill_descendants(os.getpid())
    _exit_as(status)


def _watch(engine: int, wake: int) -> int:
    """Watch until the engine's main process has ended or the leash is let go; return its wait status, or
    0."""
    while True:
        ready, _, _ = select.select([0, wake], [], [])
        if wake in ready:
            os.read(wake, 4096)
            ended = proctree.reap()
            if engine in ended:
                return ended[engine]
        if 0 in ready:
            word = os.read(0, 1)
            if word == b"":
                return 0
            if word == GENTLE:
                os.kill(engine, signal.SIGTERM)


def _exit_as(status: int) -> None:
    """End as the engine did, so that the agent reads a crash from the exit code."""
    code = os.waitstatus_to_exitcode(status)
    os._exit(code if code >= 0 else 128 - code)
