"""Job scripts as they are sent, in files that a person can read, and what shellcheck says of them.

A change of the template shows here as a difference. Once it is as it should be, write the files anew:
WRITE_SNAPSHOTS=1 pytest tests/unit/test_script_snapshots.py
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuworker.engines.protocol import Wrapping
from gpuworker.engines.wrapping import wrapped
from scheduler.slurm import directives
from scheduler.slurm.render import render
from tests.job_specs import SPECS

FOLDER = Path(__file__).parent / "snapshots"
ALLOWED = "SC1091"  # a file that the administrator sources is not here


def shellcheck(script: str) -> str:
    program = shutil.which("shellcheck")
    assert program, "bin/test installs it"
    argv = [program, "--shell=bash", f"--exclude={ALLOWED}", "--format=gcc", "-"]
    return subprocess.run(argv, input=script, text=True, capture_output=True, check=False).stdout


@pytest.mark.parametrize("name", SPECS)
def test_a_script_is_what_it_was(name: str) -> None:
    path = FOLDER / f"{name}.sh"
    if os.environ.get("WRITE_SNAPSHOTS"):
        path.write_text(render(SPECS[name]))
    assert render(SPECS[name]) == path.read_text()


def test_no_snapshot_is_of_a_job_that_is_gone() -> None:
    assert {path.stem for path in FOLDER.glob("*.sh")} == set(SPECS)


def test_together_they_hold_every_directive() -> None:
    used = {line.split("=")[0] for spec in SPECS.values() for line in directives.sbatch_options(spec)}
    known = {
        *(f"--{row.option}" for row in directives.DIRECTIVES),
        *(f"--{row.option}" for row in directives.FIXED),
        *(f"--{row.option}" for row in directives.EXTRA.values()),
    }
    # These want a cluster that is set up for them.
    assert known - used == {"--account", "--core-spec", "--mcs-label", "--qos", "--thread-spec"}


@pytest.mark.parametrize("name", SPECS)
def test_shellcheck_finds_nothing(name: str) -> None:
    assert shellcheck(render(SPECS[name])) == ""


def test_shellcheck_would_find_something() -> None:
    assert "SC2086" in shellcheck(render(SPECS["plain"]) + "\necho $HOME/*\n")


@pytest.mark.parametrize("image", ["", "/images/vllm.sif"])
def test_shellcheck_finds_nothing_in_what_runs_an_engines_prologue(image: str) -> None:
    argv, _ = wrapped(["x"], {}, [], Wrapping("true", image), [], Path("/run/x"), gpus=False)
    assert shellcheck(argv[argv.index("-c") + 1]) == ""
