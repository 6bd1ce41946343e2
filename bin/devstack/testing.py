"""Turns a bare machine into a finished test run: packages, environments, lint, services, pytest.

Without arguments all tests run, in two processes beside each other, each with a database, a Redis and a whole Berth of
its own: half of the time passes in waiting for Slurm. After them the contract of the Slurm clients runs against other
releases of Slurm. With arguments pytest gets these, and runs one test after the other.

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

from devstack import apt, demomodel, envs, linting, pyslurm, selection, trees
from devstack.checkout import ROOT, cache_dir, run_dir
from devstack.procs import foreground
from devstack.rundir import RunDir
from devstack.say import Progress, StepFailed
from devstack.stack import Stack, interrupt_on_terminate

INTERRUPTED = 2  # pytest's status


def packages() -> tuple[apt.Need, ...]:
    """List the packages that tests need; the browser only while there are browser tests."""
    browser = any((ROOT / "tests" / "browser").glob("test_*.py"))
    return (*apt.SERVICES, *apt.SHELLCHECK, *(apt.BROWSER if browser else ()))


def clean_dead_runs(parent: Path) -> None:
    """End and remove what a killed run left; the folders of living ones are locked and stay."""
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
    """Return what the tests read to find the services and the environments."""
    made = stack.env()
    return {
        **envs.clean_environment(),
        "BERTH_TEST_DATABASE_URL": made["BERTH_DATABASE_URL"],
        "BERTH_TEST_REDIS_URL": made["BERTH_REDIS_URL"],
        "BERTH_AGENT_PYTHON": str(envs.AGENT.python),
        "BERTH_TEST_VLLM_PYTHON": str(envs.VLLM_CPU.python),
        "BERTH_TEST_DEMO_MODEL": str(demomodel.folder()),
    }


def releases(progress: Progress) -> StepFailed | None:
    """Make the other releases of Slurm that every change meets. What keeps root from having them is returned, and is the
    end of the run, not its beginning: all else is tested first."""
    try:
        for tree in trees.TREES.values():
            release(tree, progress)
    except StepFailed as failure:
        return failure
    return None


def release(tree: trees.Tree, progress: Progress) -> None:
    """Make one other release, and pyslurm for it, or say why it has none."""
    trees.ensure(tree, progress)
    if why := pyslurm.refusal(tree):
        progress.say(f"! the native client is not run there: {why}")
    else:
        pyslurm.ensure(tree, progress)


def main() -> int:
    run = selection.asked(sys.argv[1:])
    interrupt_on_terminate()
    progress = Progress()
    apt.install(packages(), progress, cache_dir() / "apt.log")
    for wanted in (envs.PORTAL, envs.AGENT, envs.VLLM_CPU):
        envs.ensure(wanted, progress)
    runs, missing = [run], None
    if run.suite:
        release(trees.TREES[run.suite], progress)
    elif failed := linting.lint(progress):
        raise StepFailed(
            f"lint found something: {', '.join(failed)}", "read the lines above; bin/lint runs it alone"
        )
    if run == selection.EVERYTHING and (why := trees.refusal()):
        progress.say(f"! not run against other releases of Slurm: {why}")
    elif run == selection.EVERYTHING:
        missing = releases(progress)
        runs += selection.CONTRACTS if missing is None else ()
    demomodel.ensure(progress)
    code = _run(runs, progress)
    if missing is not None:
        raise missing
    return code


def _run(runs: Sequence[selection.Run], progress: Progress) -> int:
    """Run one after the other, each to its end, on the same services; the status of the first that failed."""
    parent = run_dir() / "test"
    clean_dead_runs(parent)
    folder = parent / str(os.getpid())
    worst = 0
    try:
        with Stack(folder, progress, durable=False) as stack:
            progress.say(
                "phases: " + ", ".join(f"{name} {took:.0f} s" for name, took in progress.seconds.items())
            )
            for run in runs:
                if run.suite:
                    progress.say(f"against the Slurm of Debian {run.suite}:")
                argv = [str(envs.PORTAL.python), "-m", "pytest", "--durations=25", *run.arguments]
                code = foreground(argv, ROOT, {**environment(stack), **run.env()})
                worst = worst or code
                if code == INTERRUPTED:
                    break
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return worst
