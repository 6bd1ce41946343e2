"""Turns a bare machine into a finished test run: packages, environments, lint, services, pytest.

Without arguments all tests run, in two processes beside each other, each with a database, a Redis and a whole Berth of
its own: half of the time passes in waiting for Slurm. With arguments pytest gets these, and runs one test after the
other.

Separate from pytest's own fixtures because those may only assume the portal's environment; what lies below
it, and the one PostgreSQL and Redis that all layers share, is made here.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from devstack import apt, demomodel, envs, linting
from devstack.checkout import ROOT, cache_dir, run_dir
from devstack.procs import foreground
from devstack.rundir import RunDir
from devstack.say import Progress, StepFailed
from devstack.stack import Stack, interrupt_on_terminate

# Whole files, not loadgroup's groups: pytest-xdist 3.8 writes them where pytest 9.2 does not look. And Python's own way
# to print a failure: in such a process pytest's may itself fail, with a SystemError of CPython 3.11's ast.
_ALL = ["-n", "2", "--dist", "loadfile", "--no-loadscope-reorder", "--tb=native"]


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


def main() -> int:
    arguments = sys.argv[1:] or _ALL
    interrupt_on_terminate()
    progress = Progress()
    apt.install(packages(), progress, cache_dir() / "apt.log")
    for wanted in (envs.PORTAL, envs.AGENT, envs.VLLM_CPU):
        envs.ensure(wanted, progress)
    if failed := linting.lint(progress):
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
            code = foreground(argv, ROOT, environment(stack))
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return code
