"""bin/test tidies up after runs that were killed and leaves living ones alone; bin/lint runs every check."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from devstack import linting, proctable
from devstack.procs import Child, Command
from devstack.rundir import RunDir
from devstack.say import Progress
from devstack.testing import clean_dead_runs


def dead_pid() -> int:
    with subprocess.Popen(["true"]) as ended:
        ended.wait()
    return ended.pid


def test_a_killed_runs_services_and_folder_go_before_the_next_run(tmp_path: Path) -> None:
    folder = tmp_path / str(dead_pid())
    service = RunDir(folder / "redis")
    service.open()
    child = Child(Command("redis", ["sleep", "100"], {"PATH": os.environ["PATH"]}), service)
    assert service._lock is not None
    service._lock.close()  # what the kernel does to a killed run
    clean_dead_runs(tmp_path)
    assert proctable.start_ticks(child.pid) is None
    assert not folder.exists()
    child.kill()


def test_a_living_runs_services_and_folder_stay(tmp_path: Path) -> None:
    folder = tmp_path / str(os.getpid())
    service = RunDir(folder / "redis")
    service.open()
    child = Child(Command("redis", ["sleep", "100"], {"PATH": os.environ["PATH"]}), service)
    clean_dead_runs(tmp_path)
    assert child.alive
    assert folder.exists()
    child.stop()
    service.close()


def test_every_check_runs_and_those_that_fail_are_named_with_what_they_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(linting, "ROOT", tmp_path)
    checks = {
        "style": (str(tmp_path / "no"),),
        "types": (str(tmp_path / "yes"),),
        "fences": (str(tmp_path / "no"),),
    }
    monkeypatch.setattr(linting, "CHECKS", checks)
    for name, status in (("yes", 0), ("no", 1)):
        (tmp_path / name).write_text(f"#!/bin/sh\necho this is {name}\nexit {status}\n")
        (tmp_path / name).chmod(0o755)
    said: list[str] = []
    assert linting.lint(Progress(out=said.append)) == ["style", "fences"]
    assert said.count("this is no") == 2
    assert any(line.startswith("✓ types") for line in said)
    assert not any(line.startswith("✓ style") for line in said)
