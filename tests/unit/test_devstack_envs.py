"""Environments: found by content, described by comments that pip ignores, told in pip's own words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from devstack import envs
from devstack.envs import Environment, Notes, ensure, read_notes, where
from devstack.say import SILENT, StepFailed


@dataclass
class Pip:
    """A stand-in for `python -m venv` and pip at the process boundary: what was asked, and what comes of
    it."""

    asked: list[list[str]] = field(default_factory=list)
    says: list[tuple[int, str]] = field(default_factory=list)  # status and output of each pip install

    def run(self, argv: list[str], log: Path, note: Callable[[str], None]) -> int:
        self.asked.append(argv)
        if "venv" in argv:
            python = Path(argv[-1]) / "bin" / "python"
            python.parent.mkdir(parents=True)
            python.touch()
            return 0
        code, output = self.says.pop(0) if "install" in argv and self.says else (0, "")
        with log.open("a") as out:
            out.write(output)
        return code


@pytest.fixture
def pip(monkeypatch: pytest.MonkeyPatch) -> Pip:
    pip = Pip()
    monkeypatch.setattr(envs, "_run", pip.run)
    return pip


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(envs, "ROOT", tmp_path)
    monkeypatch.setenv("BERTH_CACHE", str(tmp_path / "cache"))
    (tmp_path / "requirements.txt").write_text("")
    return tmp_path


def test_changed_requirements_mean_another_folder_and_the_same_ones_the_same(checkout: Path) -> None:
    environment = Environment("portal", ("requirements.txt",))
    before = environment.folder()
    assert environment.folder() == before
    (checkout / "requirements.txt").write_text("django==5.2.19\n")
    assert environment.folder() != before
    assert environment.folder().name.startswith("portal-")


def test_an_environment_is_built_once(checkout: Path, pip: Pip) -> None:
    environment = Environment("portal", ("requirements.txt",))
    assert ensure(environment, SILENT) == ensure(environment, SILENT) == environment.python
    assert len(pip.asked) == 2


def test_an_environment_without_its_marker_is_built_again(checkout: Path, pip: Pip) -> None:
    environment = Environment("portal", ("requirements.txt",))
    ensure(environment, SILENT)
    (environment.folder() / ".complete").unlink()
    leftover = environment.folder() / "half-done"
    leftover.touch()
    assert not environment.ready()
    ensure(environment, SILENT)
    assert environment.ready()
    assert not leftover.exists()


def test_a_failed_install_is_a_failed_step_and_leaves_no_complete_environment(
    checkout: Path, pip: Pip
) -> None:
    pip.says = [(1, "ERROR: disk full\n")]
    environment = Environment("portal", ("requirements.txt",))
    with pytest.raises(StepFailed) as failed:
        ensure(environment, SILENT)
    assert "requirements.txt" in failed.value.text()
    assert "disk full" in failed.value.text()
    assert not environment.ready()


def test_the_extra_index_is_asked_only_when_a_wheel_is_not_found(checkout: Path, pip: Pip) -> None:
    (checkout / "requirements.txt").write_text("# extra-index: https://e.org/cpu\ntorch==2+cpu\n")
    pip.says = [(1, "ERROR: No matching distribution found for torch==2+cpu\n"), (0, "")]
    ensure(Environment("engine", ("requirements.txt",)), SILENT)
    assert ["--extra-index-url" in argv for argv in pip.asked] == [False, False, True]
    assert pip.asked[-1][-1] == "https://e.org/cpu"


def test_packages_that_do_not_fit_are_taken_out_again(checkout: Path, pip: Pip) -> None:
    (checkout / "requirements.txt").write_text("# post: uninstall torchvision torchaudio\n")
    ensure(Environment("engine", ("requirements.txt",)), SILENT)
    assert pip.asked[-1][-4:] == ["uninstall", "-y", "torchvision", "torchaudio"]


def test_missing_requirements_are_named(checkout: Path) -> None:
    (checkout / "requirements.txt").unlink()
    with pytest.raises(StepFailed, match=r"no such requirements file: requirements\.txt"):
        ensure(Environment("portal", ("requirements.txt",)), SILENT)


def test_comment_lines_name_an_extra_index_and_what_to_leave_out() -> None:
    text = "# extra-index: https://example.org/cpu\n# post: uninstall a b\nx==1\n# post: uninstall c\n"
    assert read_notes(text) == Notes("https://example.org/cpu", ("a", "b", "c"))
    assert read_notes("# an extra index is not needed\nx==1\n") == Notes(None, ())


def test_a_file_that_names_everything_is_installed_without_pips_own_resolving(
    checkout: Path, pip: Pip
) -> None:
    (checkout / "requirements.txt").write_text("# pip: --no-deps\nx==1\n")
    ensure(Environment("peer", ("requirements.txt",)), SILENT)
    assert "--no-deps" in pip.asked[-1]


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("", "starting"),
        (
            "Collecting django==5.2\n  Downloading https://h/p/Django-5.2.whl (8 MB)\n",
            "downloading Django-5.2.whl",
        ),
        ("Collecting a\nInstalling collected packages: a, b, c\n", "installing 3 packages"),
    ],
)
def test_progress_is_the_last_thing_pip_said(output: str, words: str) -> None:
    assert where(output) == words
