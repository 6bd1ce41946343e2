"""Turns the four checks of the source into one verdict: style, format, types, import fences."""

from __future__ import annotations

import subprocess
import sys

from devstack import apt, envs
from devstack.checkout import ROOT, cache_dir
from devstack.say import Progress, StepFailed

CHECKS = {
    "ruff check": ("ruff", "check", "."),
    "ruff format": ("ruff", "format", "--check", "."),
    "mypy": ("mypy",),
    "import fences": ("lint-imports",),
}


def lint(progress: Progress) -> list[str]:
    """Run every check, show what a failing one said, and name those that failed."""
    programs = envs.PORTAL.folder() / "bin"
    failed = []
    for name, (program, *options) in CHECKS.items():
        try:
            with progress.step(name):
                _check([str(programs / program), *options], progress)
        except StepFailed as failure:
            failed.append(name)
            progress.say(f"✗ {name}: {failure.why}")
    return failed


def _check(argv: list[str], progress: Progress) -> None:
    path = f"{envs.PORTAL.folder() / 'bin'}:{apt.SERVER_PATH}"
    done = subprocess.run(
        argv,
        cwd=ROOT,
        env={**envs.clean_environment(), "PATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        progress.say((done.stdout + done.stderr).rstrip())
        raise StepFailed("see the lines above")


def main() -> int:
    progress = Progress()
    apt.install((apt.VENV,), progress, cache_dir() / "apt.log")
    envs.ensure(envs.PORTAL, progress)
    failed = lint(progress)
    if failed:
        print(f"✗ failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0
