"""A gpuworker and its GPUs: each engine gets its own, and a job that has too few says so to the portal."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpuworker import exits
from tests.flow.gpuworker_job import serving, worker
from tests.flow.gpuworker_portal import echo, fake_portal


async def test_each_replica_sees_its_own_device_and_no_other(tmp_path: Path) -> None:
    wishes = [replace(echo("r1"), gpus=[0]), replace(echo("r2"), gpus=[1])]
    async with serving(tmp_path, *wishes, env={"CUDA_VISIBLE_DEVICES": "0,1", "SLURM_JOB_GPUS": "6,7"}) as (
        portal,
        job,
        _,
    ):
        assert portal.registers[-1].gpus == ["0", "1"]
        seen = []
        for pid in job.pids("gpuworker.engines.echo_server"):
            pairs = [pair.partition("=") for pair in Path(f"/proc/{pid}/environ").read_text().split("\0")]
            env = {name: value for name, _, value in pairs}
            seen.append((env["CUDA_VISIBLE_DEVICES"], env["CUDA_DEVICE_ORDER"], "SLURM_JOB_GPUS" in env))
        assert sorted(seen) == [("0", "PCI_BUS_ID", False), ("1", "PCI_BUS_ID", False)]


async def test_a_job_with_fewer_gpus_than_it_asked_for_ends_and_says_why(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        portal.set(desired=[echo()])
        with worker(portal, tmp_path, {"CUDA_VISIBLE_DEVICES": "0", "BERTH_GPUS": "2"}) as job:
            assert await job.exit_code() == exits.UNFIT
            (said,) = portal.registers
            assert "asked for 2 GPUs and has 1: CUDA_VISIBLE_DEVICES=0" in said.refusal
            assert said.address == "" and said.refusal in job.said()
            assert portal.syncs == [], "nothing was started"


async def test_less_memory_than_asked_is_said_and_not_refused(tmp_path: Path) -> None:
    env = {"SLURM_MEM_PER_CPU": "100", "SLURM_CPUS_ON_NODE": "4", "BERTH_MEM_MB": "16000"}
    async with serving(tmp_path, env=env) as (portal, job, _):
        assert portal.registers[-1].host_mem_mb == 400
        assert (
            "asked for 16000 MiB of host memory and has 400 MiB by SLURM_MEM_PER_CPU=100 x 4 CPUs"
            in job.said()
        )
