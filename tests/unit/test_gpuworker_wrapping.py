"""An engine's command inside a prologue and an Apptainer image: its command line, its environment, what goes wrong."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from gpuworker.engines.protocol import BadArgument, Wrapping
from gpuworker.engines.wrapping import explained, wrapped

HOME = Path("/run/berth/pilot")
ENV = {"PATH": os.environ["PATH"], "CUDA_VISIBLE_DEVICES": "2,3", "OWN": "a b", "PYTHONUNBUFFERED": "1"}


def ran(prologue: str, *command: str) -> subprocess.CompletedProcess[str]:
    argv, env = wrapped(list(command) or ["env"], ENV, ["OWN"], Wrapping(prologue), [], HOME, gpus=True)
    return subprocess.run(
        argv, env=env, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL
    )


def test_without_prologue_and_image_the_command_stays_as_it_was() -> None:
    assert wrapped(["python", "-m", "x"], ENV, ["OWN"], Wrapping(), [], HOME, gpus=True) == (
        ["python", "-m", "x"],
        ENV,
    )


def test_what_the_prologue_exports_is_the_engines_and_what_is_the_engines_own_stays() -> None:
    done = ran("export LIBS=/cuda/lib\nexport CUDA_VISIBLE_DEVICES=0 OWN=other\nunset PYTHONUNBUFFERED")
    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stderr
    assert {"LIBS=/cuda/lib", "CUDA_VISIBLE_DEVICES=2,3", "OWN=a b", "PYTHONUNBUFFERED=1"} <= set(lines)


def test_a_function_from_a_file_that_is_sourced_works_and_that_files_own_failures_are_its_own(
    tmp_path: Path,
) -> None:
    modules = tmp_path / "modules.sh"
    modules.write_text("false\nmodule() { false; export LOADED=$2; }\n")
    done = ran(f". {modules}\nmodule load cuda/12")
    assert done.returncode == 0, done.stderr
    assert "LOADED=cuda/12" in done.stdout.splitlines()


def test_the_engine_takes_the_shells_place() -> None:
    """No process between: what is sent to the one that was started reaches the engine."""
    argv, env = wrapped(["sleep", "300"], ENV, [], Wrapping("true"), [], HOME, gpus=False)
    process = subprocess.Popen(argv, env=env)
    try:
        process.terminate()
        assert process.wait(30) == -15
    finally:
        process.kill()


@pytest.mark.parametrize(
    ("prologue", "code", "words"),
    [
        ("module load cuda/99\nexport A=1", 127, "exit code 127: module load cuda/99"),
        ("false\nexport A=1", 1, "exit code 1: false"),
        ("exit 3", 3, "exit code 3"),
        ("exit 0", 1, "exit code 0"),
        ("if true; then", 2, "exit code 2"),
        ("load() { return 4; }\nload\ntrue", 4, "exit code 4"),
        ("set -u\necho $NOT_SET", 127, "exit code 127"),
    ],
)
def test_a_prologue_that_fails_says_so_and_nothing_is_started(prologue: str, code: int, words: str) -> None:
    done = ran(prologue, "echo", "started")
    assert (done.returncode, done.stdout) == (code, "")
    assert words in explained(done.stderr)
    assert "prologue of the engine's environment" in explained(done.stderr)


@pytest.mark.parametrize(
    "prologue", ["grep -q x /dev/null || true", "[ -n '' ] && echo no\ntrue", "( true )"]
)
def test_a_line_that_may_fail_is_no_failure(prologue: str) -> None:
    done = ran(prologue, "echo", "started")
    assert (done.returncode, done.stdout) == (0, "started\n")
    assert explained(done.stderr) == ""


def test_hostile_words_stay_words() -> None:
    done = ran("true", "printf", "%s|", "$(id)", "a; id", "`id`", "'\"")
    assert done.stdout == "$(id)|a; id|`id`|'\"|"


def test_an_image_gets_the_folders_that_the_engine_needs_and_those_of_the_catalog(tmp_path: Path) -> None:
    model, blobs = tmp_path / "model", tmp_path / "blobs"
    model.mkdir()
    blobs.mkdir()
    (model / "config.json").touch()
    (blobs / "b1").touch()
    (model / "model.safetensors").symlink_to("../blobs/b1")
    wrapping = Wrapping(image="/images/vllm.sif", image_gpu="nv", binds=("/apps:/apps:ro",))
    argv, env = wrapped(["/opt/python", "-m", "vllm"], ENV, ["OWN"], wrapping, [str(model)], HOME, gpus=True)
    assert argv[:4] == ["bash", "--noprofile", "--norc", "-c"]
    assert argv[5:] == [
        *("berth-engine", "", "--nv"),
        *("--bind", str(HOME), "--bind", str(model), "--bind", str(blobs), "--bind", "/apps:/apps:ro"),
        *("--pwd", str(HOME), "/images/vllm.sif", "/opt/python", "-m", "vllm"),
    ]
    for prefix in ("APPTAINERENV_", "SINGULARITYENV_"):
        assert env[f"{prefix}CUDA_VISIBLE_DEVICES"] == "2,3"
        assert env[f"{prefix}OWN"] == "a b"
    assert "APPTAINERENV_PATH" not in env


def test_without_gpus_the_image_gets_no_gpu_drivers() -> None:
    wrapping = Wrapping(image="/images/vllm.sif", image_gpu="rocm")
    with_, _ = wrapped(["x"], ENV, [], wrapping, [], HOME, gpus=True)
    without, _ = wrapped(["x"], ENV, [], wrapping, [], HOME, gpus=False)
    assert "--rocm" in with_
    assert "--rocm" not in without


@pytest.mark.parametrize("name", ["a:b", "a,b"])
def test_a_folder_that_apptainers_lists_cannot_name_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(BadArgument, match="cannot be seen inside an image"):
        wrapped(["x"], ENV, [], Wrapping(image="/i.sif"), [str(tmp_path / name)], HOME, gpus=False)


def test_a_node_without_apptainer_is_told_from_an_engine_that_fails(tmp_path: Path) -> None:
    for tool in ("bash", "env"):
        (tmp_path / tool).symlink_to(f"/bin/{tool}" if tool == "bash" else "/usr/bin/env")
    env = {**ENV, "PATH": str(tmp_path)}
    argv, env = wrapped(["x"], env, [], Wrapping(image="/i.sif"), [], HOME, gpus=False)
    done = subprocess.run(argv, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 127
    assert explained(done.stderr) == "neither apptainer nor singularity is on this node's PATH"
