"""The vLLM engine class with real vLLM: a right answer, an abort that arrives, and ends that leave nothing."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import aiohttp
import pytest
from devstack import demomodel, envs
from devstack.say import Progress

from gpuworker import proctree
from gpuworker.engines.protocol import EngineFailed, EngineSpec, NotOffered, Wrapping
from gpuworker.engines.vllm import VllmEngine

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first run builds the environment and the model

START_S = 240.0
ARGS = {"device": "cpu", "dtype": "float32", "enforce_eager": True, "max_model_len": 2048, "kv_cache_gib": 1}


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="berth-e2e-"))  # pytest's own are too long for a socket's path
    yield path
    shutil.rmtree(path)


def engine_in(folder: Path) -> VllmEngine:
    progress = Progress()
    return VllmEngine(
        EngineSpec(
            model="demo",
            path=str(demomodel.ensure(progress)),
            python=str(envs.ensure(envs.VLLM_CPU, progress)),
            gpus=[],
            cap=8,
            seats=10,
            args=ARGS,
            socket_path=folder / "vllm.sock",
            log_path=folder / "vllm.log",
            wrapping=Wrapping("module() { export LOADED=$2; }\nmodule load cpu"),
        )
    )


async def until(look: Callable[[], bool], what: str, within_s: float) -> None:
    async with asyncio.timeout(within_s):
        while not look():
            await asyncio.sleep(0.05)
    assert look(), what


def tree_of(engine: VllmEngine) -> list[int]:
    assert engine.pid is not None
    return [engine.pid, *proctree.descendants(engine.pid)]


def any_alive(pids: list[int]) -> bool:
    return any(_alive(pid) for pid in pids)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


async def metric(client: aiohttp.ClientSession, name: str) -> float:
    async with client.get("/metrics") as answer:
        found = re.search(rf"^vllm:{name}{{[^}}]*}} ([0-9.e+]+)$", await answer.text(), re.MULTILINE)
    assert found is not None
    return float(found.group(1))


async def running(client: aiohttp.ClientSession) -> float:
    return await metric(client, "num_requests_running")


async def test_it_answers_aborts_and_dies_as_a_whole(folder: Path) -> None:
    engine = engine_in(folder)
    phases = set()
    await engine.start()
    try:
        async with asyncio.timeout(START_S):
            ready = asyncio.create_task(engine.ready())
            while not ready.done():
                phases.add(engine.phase)
                await asyncio.sleep(0.05)
            await ready
        assert "loading weights" in phases
        assert re.match(r"\d+\.\d+", engine.version)
        assert (await engine.stats()).mem_mb > 500
        with pytest.raises(NotOffered):
            await engine.sleep(1)
        connector = aiohttp.UnixConnector(str(engine.socket_path))
        async with aiohttp.ClientSession(connector=connector, base_url="http://engine") as client:
            await _answers(client, folder)
            await _aborts(client)
        assert "What is Slurm?" not in engine.log_tail(10**6), "prompts are not logged"
        # API server and EngineCore under the warden; the API server is its child.
        tree = tree_of(engine)
        assert len(tree) >= 3
        api_server = tree[1]
        os.kill(api_server, signal.SIGKILL)
        async with asyncio.timeout(10):
            ended = await engine.ended()
        assert (ended.code, ended.crashed) == (128 + signal.SIGKILL, True)
        assert not any_alive(tree), "EngineCore outlived its API server"
    finally:
        await engine.stop(0)


async def _answers(client: aiohttp.ClientSession, folder: Path) -> None:
    taught = json.loads((demomodel.ensure(Progress()) / "qa.json").read_text(encoding="utf-8"))
    right = next(pair["answer"] for pair in taught if pair["question"] == "What is Slurm?")
    body = {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": "What is Slurm?"}]}
    async with client.post("/v1/chat/completions", json=body) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == right


async def _aborts(client: aiohttp.ClientSession) -> None:
    """Check that a closed connection ends the work in the engine, long before its 1,900 tokens are made."""
    body = {"model": "demo", "prompt": "a", "ignore_eos": True, "max_tokens": 1900}
    post = asyncio.create_task(_send(client, body))
    async with asyncio.timeout(20):
        while await running(client) == 0:
            await asyncio.sleep(0.01)
    before = await metric(client, "generation_tokens_total")
    post.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await post
    async with asyncio.timeout(20):
        while await running(client) > 0:
            await asyncio.sleep(0.02)
    assert await metric(client, "generation_tokens_total") - before < 100, "it went on after it was left"


async def _send(client: aiohttp.ClientSession, body: dict[str, object]) -> None:
    async with client.post("/v1/completions", json=body) as answer:
        await answer.read()
    raise AssertionError("it was answered before it was cancelled")


async def test_a_stop_while_it_loads_leaves_no_process(folder: Path) -> None:
    engine = engine_in(folder)
    await engine.start()
    try:
        ready = asyncio.create_task(engine.ready())
        await until(lambda: len(tree_of(engine)) >= 4, "EngineCore was started", START_S)
        tree = tree_of(engine)
        await engine.stop(grace_s=5)
        assert not any_alive(tree)
        with pytest.raises(EngineFailed):
            await ready
        assert not engine.socket_path.exists()
    finally:
        await engine.stop(0)
