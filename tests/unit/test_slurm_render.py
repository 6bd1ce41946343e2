"""A spec becomes a script, or an error that names the field; users' text has no way in."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import replace
from typing import Any

import pytest

from scheduler.slurm.render import BadDirective, render
from scheduler.slurm.spec import JobSpec, SecretFile

SPEC = JobSpec(
    name="berth-ab12-0f3e",
    pilot="0f3e",
    log_path="/spool/log/0f3e.out",
    agent_python="/opt/berth/bin/python",
    agent_home="/opt/berth/src",
    secret=SecretFile("/spool/secret/0f3e.json", '{"ingress_key": "hidden"}'),
    limit_min=240,
    least_limit_min=30,
    cpus=4,
    mem_mb=16_000,
    partition="gpu",
    account="lab",
    qos="normal",
    gres="gpu:a100:4",
)


def test_the_script_holds_the_directives_and_ends_by_becoming_the_agent() -> None:
    lines = render(SPEC).splitlines()
    assert lines[0] == "#!/bin/bash"
    assert {
        "#SBATCH --partition=gpu",
        "#SBATCH --account=lab",
        "#SBATCH --qos=normal",
        "#SBATCH --gres=gpu:a100:4",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=16000M",
        "#SBATCH --time=240",
        "#SBATCH --time-min=30",
        "#SBATCH --signal=B:USR2@60",
        "#SBATCH --output=/spool/log/0f3e.out",
    } <= set(lines)
    assert lines[-1] == "exec /opt/berth/bin/python -m gpuworker --secret /spool/secret/0f3e.json"
    assert "hidden" not in render(SPEC)
    assert "hidden" not in repr(SPEC)


def test_directives_stand_before_the_first_command() -> None:
    lines = render(SPEC).splitlines()
    first = next(number for number, line in enumerate(lines) if line and not line.startswith("#"))
    assert not [line for line in lines[first:] if line.startswith("#SBATCH")]


def test_an_empty_value_leaves_its_directive_out() -> None:
    text = render(replace(SPEC, account="", qos="", gres="", mem_mb=0, least_limit_min=0, signal_s=0))
    for word in ("account", "qos", "gres", "mem=", "time-min", "signal"):
        assert f"--{word}" not in text


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", "berth-ab12-$(id)"),
        ("name", "other-ab12-0f3e"),
        ("name", ""),
        ("pilot", "a b"),
        ("partition", "gpu\n#SBATCH --uid=0"),
        ("partition", "gpu --wrap=x"),
        ("account", "lab\n"),
        ("account", "lab;id"),
        ("qos", "-normal"),
        ("gres", "gpu:a100:4 --x"),
        ("gres", "$(id)"),
        ("log_path", "relative/log"),
        ("log_path", "/spool/%x.out"),
        ("log_path", "/spool/../etc/passwd"),
        ("agent_python", "/opt/my python"),
        ("agent_python", ""),
        ("agent_home", "/opt/$HOME"),
        ("door_address", "0.0.0.0; id"),
        ("door_address", "fe80::1%eth0"),
        ("door_address", "10.0.0.0/8/../etc"),
        ("door_ports", "1-2-3"),
        ("scratch", "/tmp/`id`"),
        ("limit_min", 0),
        ("limit_min", "10"),
        ("limit_min", True),
        ("least_limit_min", 241),
        ("cpus", 0),
        ("mem_mb", -1),
        ("signal_s", 70_000),
        ("secret", SecretFile("/spool/a b", "{}")),
        ("secret", SecretFile("/spool/x", "two\nlines")),
    ],
)
def test_a_value_that_may_not_stand_in_a_script_is_named(field: str, value: Any) -> None:
    with pytest.raises(BadDirective) as caught:
        render(replace(SPEC, **{field: value}))
    assert caught.value.field.split(".")[0] == field
    assert "two" not in str(caught.value)


def test_the_prologue_is_the_administrators_and_stands_before_the_agent() -> None:
    text = render(replace(SPEC, prologue="module load cuda\nexport A=1"))
    assert "\nmodule load cuda\nexport A=1\n" in text
    assert text.index("module load") < text.index("-m gpuworker")
    assert "prologue" not in render(SPEC)


def test_bash_can_read_it() -> None:
    bash = shutil.which("bash")
    assert bash
    full = replace(SPEC, prologue="true", door_address="127.0.0.1", door_ports="1-2", scratch="/tmp/x")
    for spec in (SPEC, full):
        done = subprocess.run([bash, "-n"], input=render(spec), text=True, capture_output=True, check=False)
        assert (done.returncode, done.stderr) == (0, "")
