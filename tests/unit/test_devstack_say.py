"""Progress and failures of the development stack, as a person reads them."""

from __future__ import annotations

from pathlib import Path

import pytest
from devstack.say import Progress, StepFailed, exit_code


def test_a_failed_step_says_which_why_and_what_to_do(tmp_path: Path) -> None:
    log = tmp_path / "pip.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)))
    progress = Progress(out=lambda _line: None)
    with pytest.raises(StepFailed) as failed:
        with progress.step("Build the engine"):
            raise StepFailed("pip ended with status 1", "look at the network", log)
    text = failed.value.text()
    assert "step 'Build the engine' failed: pip ended with status 1" in text
    assert "look at the network" in text
    assert "line 99" in text
    assert "line 1\n" not in text


def test_the_innermost_step_is_the_one_that_is_named() -> None:
    progress = Progress(out=lambda _line: None)
    with pytest.raises(StepFailed) as failed:
        with progress.step("outer"), progress.step("inner"):
            raise StepFailed("no")
    assert failed.value.step == "inner"


def test_seconds_are_kept_by_step_and_a_failed_step_is_not_ticked_off() -> None:
    lines: list[str] = []
    times = iter([0.0, 2.5, 10.0])
    progress = Progress(out=lines.append, clock=lambda: next(times))
    with progress.step("Install"):
        pass
    with pytest.raises(StepFailed), progress.step("Start"):
        raise StepFailed("no")
    assert progress.seconds == {"Install": 2.5}
    assert lines == ["▸ Install …", "✓ Install (2.5 s)", "▸ Start …"]


def test_a_program_ends_with_status_1_and_the_sentence_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> int:
        raise StepFailed("PostgreSQL is not installed", "run bin/demo")

    assert exit_code(main) == 1
    assert "PostgreSQL is not installed" in capsys.readouterr().err
