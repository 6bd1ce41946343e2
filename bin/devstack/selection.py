"""Turns the arguments of `bin/test` into runs of pytest: which tests, against which release of Slurm.

Separate from `testing`, which makes what a run needs: here nothing is started, so that the choice can be tested.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from devstack import apt, trees
from devstack.say import StepFailed

# Whole files, not loadgroup's groups: pytest-xdist 3.8 writes them where pytest 9.2 does not look. And Python's own way
# to print a failure: in such a process pytest's may itself fail, with a SystemError of CPython 3.11's ast.
_BESIDE_EACH_OTHER = ("-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--tb=native")
# What meets Slurm's commands, daemons and jobs, each once.
_MEETS_SLURM = (
    "tests/flow/test_tick_on_slurm.py",
    "tests/slurm/test_cli_client.py",
    "tests/slurm/test_rest_client.py",
    "tests/slurm/test_native_client.py",
    "tests/slurm/test_one_table.py",
    "tests/slurm/test_loop_by_each_client.py",
    "tests/slurm/test_scripts_accepted.py",
    "tests/slurm/test_whole_path.py",
)
_ALL_THAT_MEETS_SLURM = ("tests/flow/test_tick_on_slurm.py", "tests/slurm")
# With every change, against each other release: what all clients must do. What needs no Slurm has run by then.
_CONTRACT = (
    "tests/slurm/test_cli_client.py::TestCliClient",
    "tests/slurm/test_rest_client.py",
    "tests/slurm/test_native_client.py",
)


@dataclass(frozen=True)
class Run:
    """A run of pytest: its arguments, and the Debian whose Slurm it meets ("" for this machine's own)."""

    suite: str
    arguments: tuple[str, ...]

    def env(self) -> dict[str, str]:
        """Return the variables that make all of it use that Slurm, see `trees.chosen`."""
        if not self.suite:
            return {}
        path = os.environ.get("PATH", apt.SERVER_PATH)
        return {"PATH": f"{trees.TREES[self.suite].commands}:{path}"}


EVERYTHING = Run("", _BESIDE_EACH_OTHER)
CONTRACTS = tuple(Run(suite, (*_BESIDE_EACH_OTHER, *_CONTRACT)) for suite in trees.TREES)


def asked(arguments: Sequence[str]) -> Run:
    """Return the run that the arguments ask for; without any it is all tests.

    Raises StepFailed for a release that there is no tree of.
    """
    if not arguments:
        return EVERYTHING
    option, _, suite = arguments[0].partition("=")
    if option != "--slurm":
        return Run("", tuple(arguments))
    rest = [*arguments[1:]]
    suite = suite or (rest.pop(0) if rest else "")
    if suite not in trees.TREES:
        raise StepFailed(
            f"no such release: {suite or 'none named'}", f"bin/test --slurm {'|'.join(trees.TREES)}"
        )
    return Run(suite, tuple(_against_release(rest)))


def _against_release(arguments: Sequence[str]) -> list[str]:
    """Add the tests that the arguments leave open; `-m nightly` stands for all, quick and slow."""
    if any(argument.startswith("tests") for argument in arguments):
        return [*arguments]
    if [*arguments] == ["-m", "nightly"]:
        return ["-m", "nightly or not nightly", *_ALL_THAT_MEETS_SLURM]
    return [*arguments, *_MEETS_SLURM]
