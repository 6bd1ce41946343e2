"""Turns a module of tests/bench into a table and one line of JSON.

A bench is `tests/bench/<name>.py` with `TITLE` and `def run(ctx: Bench) -> dict[str, float]`, and `TIME_LIMIT_S` if it
needs longer than others; the figures it returns are the last line. It runs under the portal's environment, so that a
bench may import what the portal imports.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import os
import shutil
import signal
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from devstack import berth, checkout, demomodel, envs
from devstack.berth import Berth
from devstack.procs import foreground
from devstack.say import Progress, StepFailed
from devstack.slurmconf import SlurmSpec
from devstack.stack import Stack, interrupt_on_terminate

LIMIT_S = 600
FOLDER = checkout.ROOT / "tests" / "bench"


@dataclass(frozen=True)
class Bench:
    """A bench's surroundings: services to measure, a way to repeat, and a place for its table."""

    folder: Path
    progress: Progress

    @contextlib.contextmanager
    def berth(
        self, spec: SlurmSpec | None = None, settings: Mapping[str, str] | None = None
    ) -> Iterator[Berth]:
        """Start and seed a whole Berth: `site.url`, `token`, `model`."""
        with berth.running(self.folder, demomodel.folder(), self.progress, spec, settings) as started:
            yield started

    @contextlib.contextmanager
    def stack(self, slurm: SlurmSpec | None = None) -> Iterator[Stack]:
        """Start services only: PostgreSQL with durable writes, Redis, and Slurm if described."""
        with Stack(self.folder, self.progress, slurm=slurm, keep=False) as started:
            yield started

    def say(self, text: str) -> None:
        self.progress.say(text)

    def table(self, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print aligned columns; numbers to the right."""
        cells = [list(head), *[[_cell(value) for value in row] for row in rows]]
        widths = [max(len(row[column]) for row in cells) for column in range(len(head))]
        numeric = [all(isinstance(row[column], int | float) for row in rows) for column in range(len(head))]
        for row in cells:
            aligned = zip(row, widths, numeric, strict=True)
            self.say("  " + "  ".join(c.rjust(w) if right else c.ljust(w) for c, w, right in aligned))

    @staticmethod
    def median_of(runs: int, measure: Callable[[], float]) -> float:
        """Return the median of so many measurements."""
        return statistics.median([measure() for _ in range(runs)])


def _cell(value: object) -> str:
    if isinstance(value, float) and abs(value) < 100:
        return f"{value:.3g}"
    return f"{value:,.0f}" if isinstance(value, int | float) else str(value)


def names() -> list[str]:
    return sorted(
        path.stem for path in FOLDER.glob("*.py") if not path.stem.startswith(("_", "test_", "conftest"))
    )


def run(name: str) -> dict[str, float]:
    """Run one bench in a folder of its own, which is removed; stop a bench that takes too long."""
    module = importlib.import_module(f"tests.bench.{name}")
    progress = Progress()
    progress.say(f"# {name}: {module.TITLE}")
    folder = checkout.run_dir() / "bench" / str(os.getpid())

    limit_s: int = getattr(module, "TIME_LIMIT_S", LIMIT_S)

    def too_long(_number: int, _frame: object) -> None:
        raise StepFailed(f"the bench {name} took longer than {limit_s} s", "make it do less")

    signal.signal(signal.SIGALRM, too_long)
    signal.alarm(limit_s)
    try:
        figures: dict[str, float] = module.run(Bench(folder, progress))
    finally:
        signal.alarm(0)
        shutil.rmtree(folder, ignore_errors=True)
    return figures


def main() -> int:
    """Install under the system's python, then go on as itself under the portal's."""
    parser = argparse.ArgumentParser(
        prog="bin/bench", description="Measures, prints a table and a line of JSON."
    )
    parser.add_argument("name", nargs="?", choices=names(), metavar="NAME")
    parser.add_argument("--list", action="store_true", help="name the benches")
    options = parser.parse_args()
    if options.list or options.name is None:
        for name in names():
            print(name)
        return 0
    interrupt_on_terminate()
    if Path(sys.prefix) == envs.PORTAL.folder():
        figures = run(options.name)
        print(json.dumps({"bench": options.name, "figures": figures}), flush=True)
        return 0
    berth.install(Progress())
    path = f"{checkout.ROOT}:{checkout.ROOT / 'bin'}"
    argv = [str(envs.PORTAL.python), "-m", "devstack.bench", options.name]
    return foreground(argv, checkout.ROOT, {**envs.clean_environment(), "PYTHONPATH": path})


if __name__ == "__main__":
    from devstack.say import exit_code

    sys.exit(exit_code(main))
