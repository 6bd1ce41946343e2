"""bin/test tidies up after runs that were killed and leaves living ones alone; bin/lint runs every check."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from devstack import apt, demomodel, envs, linting, proctable, pyslurm, selection, testing, trees
from devstack.procs import Child, Command
from devstack.rundir import RunDir
from devstack.say import Progress, StepFailed
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


def test_no_arguments_are_all_tests_and_the_contract_is_run_against_every_other_release(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PATH", apt.SERVER_PATH)
    assert trees.chosen() is None
    assert selection.asked([]) is selection.EVERYTHING
    assert [run.suite for run in selection.CONTRACTS] == ["trixie", "testing"]
    for run in selection.CONTRACTS:
        assert "tests/slurm/test_cli_client.py::TestCliClient" in run.arguments
        monkeypatch.setenv("PATH", run.env()["PATH"])
        assert trees.chosen() is trees.TREES[run.suite]
        assert trees.search_path().startswith(f"{trees.TREES[run.suite].commands}:")
    assert selection.EVERYTHING.env() == {}


@pytest.mark.parametrize("words", [["--slurm", "trixie"], ["--slurm=trixie"]])
def test_a_release_is_named_in_either_way_and_the_rest_goes_to_pytest(words: list[str]) -> None:
    assert selection.asked([*words, "tests/slurm/x.py", "-x"]) == selection.Run(
        "trixie", ("tests/slurm/x.py", "-x")
    )
    assert "tests/slurm/test_whole_path.py" in selection.asked(words).arguments
    quick = selection.asked([*words, "-k", "job"]).arguments
    assert quick[:2] == ("-k", "job") and "tests/slurm/test_cli_client.py" in quick
    nightly = selection.asked([*words, "-m", "nightly"]).arguments
    assert nightly == ("-m", "nightly or not nightly", "tests/flow/test_tick_on_slurm.py", "tests/slurm")


@pytest.mark.parametrize("words", [["--slurm"], ["--slurm", "sid"], ["--slurm="], ["--slurm", "-x"]])
def test_a_release_that_there_is_no_tree_of_is_refused_with_those_that_there_are(words: list[str]) -> None:
    with pytest.raises(StepFailed, match="no such release") as refused:
        selection.asked(words)
    assert "trixie|testing" in refused.value.remedy


@pytest.fixture
def ran(monkeypatch: pytest.MonkeyPatch) -> list[selection.Run]:
    """Record what `bin/test` without arguments hands to pytest; all that it would install first is taken
    for granted."""
    runs: list[selection.Run] = []

    def note(asked: Sequence[selection.Run], _: Progress) -> int:
        runs.extend(asked)
        return 0

    monkeypatch.setattr(sys, "argv", ["bin/test"])
    monkeypatch.setattr(apt, "install", lambda *_: None)
    monkeypatch.setattr(envs, "ensure", lambda *_: None)
    monkeypatch.setattr(linting, "lint", lambda _: [])
    monkeypatch.setattr(demomodel, "ensure", lambda _: None)
    monkeypatch.setattr(testing, "interrupt_on_terminate", lambda: None)
    monkeypatch.setattr(testing, "_run", note)
    return runs


def test_without_a_mirror_the_other_tests_run_first_and_the_run_fails_all_the_same(
    ran: list[selection.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_mirror(tree: trees.Tree, progress: Progress) -> trees.Tree:
        raise StepFailed("apt's sources name no mirror", "add one")

    monkeypatch.setattr(trees, "refusal", lambda: "")
    monkeypatch.setattr(trees, "ensure", no_mirror)
    with pytest.raises(StepFailed, match="no mirror"):
        testing.main()
    assert ran == [selection.EVERYTHING]


def test_an_ordinary_user_runs_the_rest_and_is_told_why(
    ran: list[selection.Run], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    assert testing.main() == 0
    assert ran == [selection.EVERYTHING]
    assert "only root" in capsys.readouterr().out


def test_root_runs_the_contract_against_every_other_release_as_well(
    ran: list[selection.Run], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trees, "refusal", lambda: "")
    monkeypatch.setattr(trees, "ensure", lambda tree, _: tree)
    monkeypatch.setattr(trees.Tree, "release", lambda tree: tree.slurm)
    built: list[str] = []
    monkeypatch.setattr(pyslurm, "ensure", lambda tree, _: built.append(tree.suite))
    assert testing.main() == 0
    assert ran == [selection.EVERYTHING, *selection.CONTRACTS]
    assert built == ["testing"]
