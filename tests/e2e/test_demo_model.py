"""The demo model end to end: HTTP, queue, a Slurm job, a real vLLM in it, and the answer that it was taught, word
for word, under load and in a chat. The first question finds a model that nobody has started.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from devstack import demomodel

from tests.slurm.whole import Whole

pytestmark = [pytest.mark.e2e, pytest.mark.slurm, pytest.mark.timeout(900)]  # the first run builds the model

MODEL = "berth-demo"
CONCURRENCY = 16
MIN_SHARE = 0.95


@dataclass(frozen=True)
class Served:
    """A running Berth and the pairs that its demo model was taught."""

    url: str
    token: str
    pairs: tuple[tuple[str, str], ...]


@pytest.fixture(scope="module")
def served(whole: Whole) -> Iterator[Served]:
    taught = json.loads((demomodel.folder() / "qa.json").read_text(encoding="utf-8"))
    pairs = tuple((pair["question"], pair["answer"]) for pair in taught)
    yield Served(whole.site.url, whole.berth.token, pairs)
    whole.empty()


async def post(served: Served, path: str, bodies: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Send all bodies, CONCURRENCY at a time, and return the first choice of each answer, in their order."""
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=CONCURRENCY),
        headers={"Authorization": f"Bearer {served.token}"},
        timeout=aiohttp.ClientTimeout(
            total=None
        ),  # those at the end wait for all before them, and for the start
        raise_for_status=True,
    ) as session:

        async def one(body: dict[str, Any]) -> dict[str, Any]:
            async with session.post(served.url + path, json={"model": MODEL, **body}) as answer:
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
