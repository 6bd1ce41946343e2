"""A part of an engine on another node: a disk that is full and a process that nobody can kill stop nothing else."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import pytest

from gpuworker import nodelink, remote
from gpuworker.engines.process import EngineProcess
from gpuworker.engines.spread import Spread
from gpuworker.remote import Part, Remote


async def test_a_log_that_cannot_be_written_costs_its_lines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    part = Part(Remote("gpu02"), "1", tmp_path / "gone" / "log")
    part.logged("some words")
    assert "10 characters of a log of node gpu02 are lost" in caplog.text and part.running()


async def test_an_engine_is_ended_though_one_of_its_parts_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nodelink, "SILENT_S", 0.3)
    own = await EngineProcess.start(["sleep", "600"], {"PATH": os.environ["PATH"]}, tmp_path / "log")
    spread = Spread(own, [Part(Remote("gpu02"), "1", tmp_path / "rank.log")])
    began = time.monotonic()
    async with asyncio.timeout(30):
        await spread.stop(0.0)
    assert time.monotonic() - began >= 0.3 and not own.running() and not spread.running()


async def test_what_could_not_be_ended_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodelink, "SILENT_S", 0.1)
    part = Part(Remote("gpu02"), "1", tmp_path / "log")
    await part.stop(0.0)
    ended = await part.ended()
    assert ended.code == remote.LOST and "on node gpu02 could not be ended" in ended.why
