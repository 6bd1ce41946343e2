"""The SDK through gateway, ingress and leaser of a real gpuworker, with its echo engine: every API it serves."""

from __future__ import annotations

import asyncio
from pathlib import Path

import openai

from tests.flow.dataplane import Plane, both_links_nightly
from tests.flow.gpuworker_job import START_S, job, planned
from tests.flow.test_openai_sdk_chat import ASK

pytestmark = both_links_nightly


async def test_every_api_through_a_real_gpuworker(plane: Plane, tmp_path: Path) -> None:
    pilot, _ = planned(plane)
    async with openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token) as ask:
        with job(plane, pilot, tmp_path, plane.link):
            async with asyncio.timeout(START_S):
                chat = await ask.chat.completions.create(**ASK)
            assert (chat.choices[0].message.content, chat.choices[0].finish_reason) == ("hi", "stop")
            assert chat.usage is not None and chat.usage.completion_tokens == 1
            text = await ask.completions.create(model="demo", prompt="one two", max_tokens=1)
            assert (text.choices[0].text, text.choices[0].finish_reason) == ("one ", "length")
            vectors = await ask.embeddings.create(model="demo", input=["a", "b", "a"])
            first, second, third = (one.embedding for one in vectors.data)
            assert first == third != second
            said = await ask.responses.create(model="demo", input="one two")
            assert said.output_text == "one two" and said.usage is not None
            async with ask.responses.stream(model="demo", input="one two") as stream:
                kinds = [event.type async for event in stream]
                assert kinds[-1] == "response.completed"
                assert (await stream.get_final_response()).output_text == "one two"
            later = await ask.responses.create(
                model="demo", input=[{"role": "user", "content": "three"}], background=True
            )
            async with asyncio.timeout(START_S):
                while later.status in ("queued", "in_progress"):
                    await asyncio.sleep(0.05)
                    later = await ask.responses.retrieve(later.id)
            assert (later.status, later.output_text) == ("completed", "three")
    assert plane.sql("SELECT DISTINCT state FROM ledger_request") == [("done",)]
    used = "SELECT api, prompt_tokens, completion_tokens FROM ledger_request WHERE prompt_tokens IS NULL"
    assert plane.sql(used) == []
