"""Turns three services into one: started in order with progress, stopped in reverse whatever happens.

Separate from the services because each of them is also used alone, by tests that need only one.
"""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

from devstack.postgres import Postgres
from devstack.redis import Redis
from devstack.say import Progress
from devstack.slurm import Slurm
from devstack.slurmconf import SlurmSpec


class Stack:
    """The private services under one folder, as a context manager. Those not asked for are None.

    `durable`: PostgreSQL writes as in production; `keep`: its data outlive the stack (if durable, as a rule).
    """

    def __init__(
        self,
        run_dir: Path,
        progress: Progress,
        *,
        postgres: bool = True,
        redis: bool = True,
        slurm: SlurmSpec | None = None,
        durable: bool = True,
        keep: bool | None = None,
    ) -> None:
        self.run_dir = run_dir
        self.progress = progress
        self.postgres = Postgres(run_dir / "postgres", durable, keep) if postgres else None
        self.redis = Redis(run_dir / "redis") if redis else None
        self.slurm = Slurm(run_dir / "slurm", slurm) if slurm else None
        self._exit = contextlib.ExitStack()

    def __enter__(self) -> Stack:
        # One exit stack: a service that fails to start takes down those before it.
        with contextlib.ExitStack() as starting:
            if self.postgres is not None:
                with self.progress.step("Start PostgreSQL"):
                    starting.enter_context(self.postgres)
            if self.redis is not None:
                with self.progress.step("Start Redis"):
                    starting.enter_context(self.redis)
            if self.slurm is not None:
                spec = self.slurm.spec
                what = f"Start Slurm: {spec.nodes} nodes with {spec.gpus} GPUs each"
                if self.slurm.why_one_host:
                    self.progress.say(f"all nodes on this one host: {self.slurm.why_one_host}")
                else:
                    what += ", each a host of its own"
                with self.progress.step(what):
                    starting.enter_context(self.slurm)
            self._exit = starting.pop_all()
        return self

    def __exit__(self, *exc_info: object) -> None:
        with held_interrupts():
            self._exit.close()

    def env(self) -> dict[str, str]:
        """Return what a program needs to find these services."""
        env = dict(self.slurm.env()) if self.slurm else {}
        if self.postgres:
            env["BERTH_DATABASE_URL"] = self.postgres.dsn
        if self.redis:
            env["BERTH_REDIS_URL"] = self.redis.url
        return env


def interrupt_on_terminate() -> None:
    """Let SIGTERM and SIGHUP end the program as Ctrl-C does: through every `with` on the way out."""

    def raise_interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, raise_interrupt)
    signal.signal(signal.SIGHUP, raise_interrupt)


@contextlib.contextmanager
def held_interrupts() -> Iterator[None]:
    """Answer a second Ctrl-C during the tear-down with a sentence, not with a half-done tear-down."""

    def answer(_number: int, _frame: FrameType | None) -> None:
        print("still stopping, a few seconds more …", file=sys.stderr, flush=True)

    try:
        before = {number: signal.signal(number, answer) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not the main thread: interrupts do not come here
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
