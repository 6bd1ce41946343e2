"""Staging in a real gpuworker: asked for by a sync's answer, told in the next, used by the next start, gone after."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from gpuworker.staging import filesystem_of
from gpuworker.wire import StageWish
from tests.flow.gpuworker_job import worker
from tests.flow.gpuworker_portal import echo, fake_portal, until


async def test_weights_are_staged_told_and_used_and_go_with_the_job(tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir()
    (weights / "config.json").write_text("{}")
    async with fake_portal() as portal:
        portal.set(stage=[StageWish("p", str(weights))])
        with worker(portal, tmp_path) as job:
            if filesystem_of(tmp_path) in ("tmpfs", "ramfs"):
                await until(lambda: "is memory" in job.said(), job.said)
                return
            await until(lambda: portal.syncs and portal.syncs[-1].staged == ["p"], job.said)
            portal.set(stage=[], desired=[replace(echo(), path=str(weights))])
            await portal.state("hot")
            assert "replica r1 reads its weights from scratch" in job.said()
            portal.set(drain=True)
            assert await job.exit_code() == 0
            assert list(job.scratch.iterdir()) == []


async def test_a_wish_that_cannot_be_met_fails_no_start(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        gone = str(tmp_path / "gone")
        portal.set(stage=[StageWish("p", gone)], desired=[replace(echo(), path=gone)])
        with worker(portal, tmp_path) as job:
            await portal.state("hot")
            await until(lambda: "the weights of p are not staged" in job.said(), job.said)
            assert portal.syncs[-1].staged == []


async def test_what_a_killed_job_left_on_scratch_goes_with_the_next_one(tmp_path: Path) -> None:
    async with fake_portal() as portal:
        with worker(portal, tmp_path) as job:
            await until(lambda: portal.registers, job.said)
        (left,) = job.scratch.iterdir()  # its supervisor got SIGKILL
        with worker(portal, tmp_path) as job:
            await until(lambda: len(portal.registers) == 2, job.said)
            assert f"removed {left}" in job.said()
            assert left not in job.scratch.iterdir()
