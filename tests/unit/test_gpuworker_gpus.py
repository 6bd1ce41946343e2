"""GPUs by the device side and by Slurm's variables: which are this job's, what engines are told, what is refused."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from gpuworker import devicemem, devices, gpus
from gpuworker.devices import Answer, Device, of_amd, of_nvidia
from gpuworker.engines.process import engine_environment

ONE, TWO = "GPU-7f57f032-34ab-a064-c37c-7a4f75601cc5", "GPU-8c7c9c30-f12f-20bf-e14e-d3c4c965af32"
CUT, CUT_TOO = "MIG-377e0049-554c-540b-93c6-d0976f8426cb", "MIG-f39aa248-6f1b-5769-b119-8d650bb34b27"
PLAIN = f"GPU 0: NVIDIA H100 80GB HBM3 (UUID: {ONE})\nGPU 1: NVIDIA H100 80GB HBM3 (UUID: {TWO})\n"
MIG = f"""GPU 0: NVIDIA H100 80GB HBM3 (UUID: {ONE})
  MIG 2g.20gb     Device  0: (UUID: {CUT})
  MIG 1g.10gb     Device  1: (UUID: {CUT_TOO})
GPU 1: NVIDIA H100 80GB HBM3 (UUID: {TWO})
"""
SILENT = Answer(False, silence="nvidia-smi did not answer within 30 s", maker="nvidia")
NO_TOOL = Answer(False)


def nvidia(said: str, cut_up: frozenset[str] = frozenset()) -> Answer:
    return Answer(True, of_nvidia(said, cut_up), maker="nvidia")


def find(env: dict[str, str], asked: int | None, said: Answer) -> gpus.Gpus:
    return gpus.find(env, asked, lambda: said)


def test_whole_gpus_have_an_index_and_slices_their_uuid() -> None:
    assert of_nvidia(PLAIN) == (Device(ONE, "0"), Device(TWO, "1"))
    assert of_nvidia(MIG) == (Device(CUT, CUT), Device(CUT_TOO, CUT_TOO), Device(TWO, "1"))
    assert of_nvidia(PLAIN, frozenset({ONE})) == (Device(TWO, "1"),), (
        "in MIG mode, and none of its slices is ours"
    )
    assert of_nvidia("") == ()


def test_under_constrain_devices_the_global_number_is_no_name() -> None:
    """Global GPU 2 is the only one that the job sees, and has number 0 here."""
    only = f"GPU 0: NVIDIA A100 (UUID: {TWO})\n"
    found = find({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "2"}, 1, nvidia(only))
    assert (found.ids, found.names) == ((TWO,), ("0",))


def test_without_gpu_env_the_devices_are_what_the_device_side_shows() -> None:
    only = f"GPU 0: NVIDIA A100 (UUID: {TWO})\n"
    assert find({"SLURM_JOB_GPUS": "2"}, 1, nvidia(only)).names == ("0",)
    # A prologue that copied the global number does no harm either.
    assert find({"SLURM_JOB_GPUS": "2", "CUDA_VISIBLE_DEVICES": "2"}, 1, nvidia(only)).names == ("0",)


def test_of_a_node_whose_gpus_are_all_seen_only_the_named_ones_are_ours() -> None:
    assert find({"CUDA_VISIBLE_DEVICES": "1"}, 1, nvidia(PLAIN)).ids == (TWO,)
    for name in (TWO, TWO[:12]):
        assert find({"CUDA_VISIBLE_DEVICES": name}, 1, nvidia(PLAIN)).names == ("1",)


def test_nobody_takes_what_may_be_somebody_elses() -> None:
    with pytest.raises(
        gpus.TooFew, match=r"sees 2, and nothing says which.*SLURM_JOB_GPUS=1.*ConstrainDevices"
    ):
        find({"SLURM_JOB_GPUS": "1"}, 1, nvidia(PLAIN))


def test_slices_are_passed_on_as_they_are() -> None:
    found = find({"CUDA_VISIBLE_DEVICES": CUT_TOO}, 1, nvidia(MIG))
    assert (found.ids, found.names) == ((CUT_TOO,), (CUT_TOO,))
    assert find({"CUDA_VISIBLE_DEVICES": f"{CUT},{CUT_TOO}"}, 2, nvidia(MIG)).names == (CUT, CUT_TOO)


def test_fewer_than_asked_is_refused_with_what_is_there_and_what_to_do() -> None:
    with pytest.raises(gpus.TooFew) as refusal:
        find({"CUDA_VISIBLE_DEVICES": "0", "SLURM_JOB_GPUS": "6"}, 2, nvidia(f"GPU 0: A (UUID: {ONE})"))
    for words in (
        "asked for 2 GPUs and has 1",
        "CUDA_VISIBLE_DEVICES=0",
        "SLURM_JOB_GPUS=6",
        ONE,
        "gres.conf",
    ):
        assert words in str(refusal.value)
    with pytest.raises(gpus.TooFew, match=r"has 0.*CUDA_VISIBLE_DEVICES not set.*devices here: none"):
        find({}, 1, nvidia(""))


def test_a_tool_that_hangs_is_no_node_without_gpus() -> None:
    assert find({"CUDA_VISIBLE_DEVICES": "0,1"}, 2, SILENT).names == ("0", "1")
    with pytest.raises(gpus.TooFew, match=r"has 0: CUDA_VISIBLE_DEVICES not set.*did not answer within 30 s"):
        find({}, 2, SILENT)
    assert find({}, None, SILENT).names == (), "nothing is known, and nothing was asked for"
    with pytest.raises(gpus.TooFew, match="did not answer within 30 s"):
        find({"CUDA_VISIBLE_DEVICES": "0"}, 2, SILENT)


def test_without_any_tool_the_variables_are_believed() -> None:
    assert find({"CUDA_VISIBLE_DEVICES": "GPU-ab, GPU-cd"}, 2, NO_TOOL).names == ("GPU-ab", "GPU-cd")
    assert find({"CUDA_VISIBLE_DEVICES": "NoDevFiles"}, 2, NO_TOOL).names == ()
    assert find({"SLURM_JOB_GPUS": "3"}, 1, NO_TOOL).names == (), "for display only"
    assert find({}, None, NO_TOOL) == gpus.Gpus()
    assert find({}, 2, NO_TOOL) == gpus.Gpus(), "nothing is known, so nothing is refused"


def test_a_job_without_gpus_has_none_whatever_it_sees() -> None:
    assert find({"CUDA_VISIBLE_DEVICES": "0"}, 0, nvidia(PLAIN)) == gpus.Gpus()
    assert find({}, 0, nvidia(PLAIN)).names == ()


def test_the_same_device_twice_is_one() -> None:
    for said in (nvidia(PLAIN), NO_TOOL):
        with pytest.raises(gpus.TooFew, match="asked for 2 GPUs and has 1"):
            find({"CUDA_VISIBLE_DEVICES": "0,0"}, 2, said)


def test_amd_gpus_keep_their_own_variable() -> None:
    said = Answer(
        True, of_amd('{"card1": {"Unique ID": "0xb"}, "card0": {"Unique ID": "0xa"}, "system": {}}') or ()
    )
    found = gpus.find(
        {"ROCR_VISIBLE_DEVICES": "1", "CUDA_VISIBLE_DEVICES": "0"},
        1,
        lambda: Answer(True, said.devices, maker="amd"),
    )
    assert (found.ids, found.names, found.maker) == (("0xb",), ("1",), "amd")
    assert gpus.environment(found.names, "amd") == {"ROCR_VISIBLE_DEVICES": "1"}
    assert of_amd("no JSON") is None and of_amd("[]") is None


def test_an_engine_sees_its_own_gpus_and_no_other_variable_of_the_job() -> None:
    job = {
        "CUDA_VISIBLE_DEVICES": "0,1",
        "ROCR_VISIBLE_DEVICES": "0,1",
        "GPU_DEVICE_ORDINAL": "0,1",
        "HOME": "/h",
    }
    made = engine_environment(job, gpus.environment(["1"], "nvidia"), {})
    assert made == {
        "HOME": "/h", "CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID", "PYTHONUNBUFFERED": "1",
    }  # fmt: skip


def tool(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_real_tool_is_asked_and_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.listed() == NO_TOOL
    tool(
        tmp_path,
        "nvidia-smi",
        f'case "$1" in -L) printf "%s" "{MIG}";; *) echo "{ONE}, Enabled"; echo "{TWO}, Enabled";; esac',
    )
    assert [gpu.id for gpu in devices.listed().devices] == [CUT, CUT_TOO], (
        "the second GPU has no slice of ours"
    )
    tool(tmp_path, "nvidia-smi", 'echo "No devices were found"; exit 6')
    assert devices.listed() == Answer(True, maker="nvidia")
    tool(tmp_path, "nvidia-smi", 'echo "NVIDIA-SMI has failed: no driver"; exit 9')
    said = devices.listed()
    assert said.there and not said.devices and "exit code 9: NVIDIA-SMI has failed" in said.trouble
    tool(tmp_path, "nvidia-smi", 'echo "libnvidia-ml.so.1: cannot open shared object file" >&2; exit 127')
    assert not devices.listed().there and "libnvidia-ml" in devices.listed().silence
    tool(tmp_path, "nvidia-smi", "exec sleep 60")
    monkeypatch.setattr(devices, "LIMIT_S", 0.2)
    assert devices.listed() == Answer(False, silence="nvidia-smi did not answer within 0.2 s", maker="nvidia")


LOST = "Unable to determine the device handle for GPU0000:3B:00.0: GPU is lost.  Reboot the system"
NO_DRIVER = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."


@pytest.mark.parametrize("to", ["", " >&2"], ids=["stdout", "stderr"])
def test_a_lost_gpu_is_not_there_whatever_the_variables_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, to: str
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    one = f"GPU 0: NVIDIA A100 (UUID: {ONE})"
    tool(tmp_path, "nvidia-smi", f'echo "{one}"; echo "{LOST}"{to}; exit 15')
    for env in ({"CUDA_VISIBLE_DEVICES": "0,1"}, {"SLURM_JOB_GPUS": "0,1"}, {}):
        with pytest.raises(gpus.TooFew, match=rf"for 2 GPUs and has 1: .*{ONE}.*15: Unable.*GPU is lost"):
            gpus.find(env, 2)
    # Of two GPUs of the node the one that is left was given to this job.
    assert gpus.find({"CUDA_VISIBLE_DEVICES": "0"}, 1).ids == (ONE,)
    # Nobody says so: it may be somebody else's, and the lost one this job's.
    with pytest.raises(gpus.TooFew, match=r"nor whether all are here.*GPU is lost"):
        gpus.find({}, 1)
    # A warning: all are there.
    tool(tmp_path, "nvidia-smi", f'echo "{one}"; echo "WARNING: infoROM is corrupted"; exit 14')
    assert gpus.find({}, 1).ids == (ONE,)


def test_a_node_without_a_driver_has_no_gpus_and_needs_none_for_a_job_without(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "nvidia-smi", f'echo "{NO_DRIVER}"; exit 9')
    assert gpus.find({}, 0) == gpus.Gpus()
    assert gpus.find({}, None) == gpus.Gpus()
    for env in ({}, {"CUDA_VISIBLE_DEVICES": "0,1"}):
        with pytest.raises(gpus.TooFew, match=r"has 0: .*couldn't communicate with the NVIDIA driver"):
            gpus.find(env, 2)
    # NVIDIA's tool where the driver is AMD's.
    tool(tmp_path, "rocm-smi", """echo '{"card0": {"Unique ID": "0xa"}}'""")
    assert (gpus.find({}, 1).ids, gpus.find({}, 1).maker) == (("0xa",), "amd")
    tool(tmp_path, "rocm-smi", "exit 1")
    with pytest.raises(gpus.TooFew, match="couldn't communicate"):
        gpus.find({"CUDA_VISIBLE_DEVICES": "0"}, 1)


def test_a_part_of_the_list_is_not_all_memory_that_is_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    tool(tmp_path, "nvidia-smi", f'echo "{LOST}" >&2; exit 15')
    assert devicemem.held_mb(1) is None


def test_the_smallest_gpu_is_a_slice_where_there_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    assert devices.least_memory_mb() == 0
    tool(tmp_path, "nvidia-smi", f'case "$1" in -L) printf "%s" "{MIG}";; *) echo 81559; echo 40960;; esac')
    assert devices.least_memory_mb() == 10 * 1024
    tool(tmp_path, "nvidia-smi", f'case "$1" in -L) printf "%s" "{PLAIN}";; *) echo 81559; echo 40960;; esac')
    assert devices.least_memory_mb() == 40960
