"""The job script where no shell prepared the job: the secret leaves the environment before anything else runs."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

from scheduler.slurm.directives import native_fields, rest_fields
from scheduler.slurm.job_environment import SECRET, without_shell
from scheduler.slurm.render import render
from tests.unit.test_slurm_render import SPEC

AGENT = """#!/bin/bash
echo "argv $*"
env | sort | sed 's/^/env /'
tr '\\0' '\\n' < /proc/$$/environ | sed 's/^/proc /'
if [ "$4" = - ]; then sed "s,^,stdin ,"; fi
"""


def run(folder: Path, env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    agent = folder / "agent"
    agent.write_text(AGENT)
    agent.chmod(0o755)
    spec = replace(
        SPEC,
        agent_python=str(agent),
        log_path=f"{folder}/spool/log/p.out",
        prologue=f"env > {folder}/prologue; cat /proc/self/environ > {folder}/child",
    )
    script = folder / "script"
    script.write_text(render(spec))
    argv = ["bash", str(script)]
    return subprocess.run(
        argv, env={"PATH": os.environ["PATH"], **env}, capture_output=True, text=True, check=True
    )


def test_the_agent_reads_the_secret_and_nobodys_environment_holds_it(tmp_path: Path) -> None:
    _, env = without_shell({}, SPEC)
    done = run(tmp_path, env)
    assert done.stdout == ""
    log = (tmp_path / "spool" / "log" / "p.out").read_text()
    assert f"stdin {SPEC.secret.text}" in log.splitlines()
    assert "argv -m gpuworker --secret -" in log.splitlines()
    shown = [line for line in log.splitlines() if not line.startswith("stdin ")]
    for text in ("\n".join(shown), (tmp_path / "prologue").read_text(), (tmp_path / "child").read_text()):
        assert "PATH=" in text
        assert "hidden" not in text
        assert SECRET not in text


def test_with_a_file_the_script_does_as_before(tmp_path: Path) -> None:
    done = run(tmp_path, {})
    assert f"argv -m gpuworker --secret {SPEC.secret.path}" in done.stdout.splitlines()
    assert not (tmp_path / "spool").exists()


def test_without_a_shell_slurm_writes_no_log_to_a_folder_that_may_be_missing() -> None:
    for fields in (rest_fields(SPEC), native_fields(SPEC)):
        fields, _ = without_shell(fields, SPEC)
        assert fields["standard_output"] == fields["standard_error"] == "/dev/null"
        assert "hidden" not in repr(fields)
