"""The official SDK against the data plane: what it sends arrives untouched, what comes back it understands."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any

import openai
import pytest
from aiohttp import web

from tests.flow.dataplane import Plane, until
from tests.flow.fake_ingress import Behaviour, FakeIngress, Seen, event, go_on_for_ever, reject

ASK: Any = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


@pytest.fixture
async def ask(plane: Plane) -> AsyncIterator[openai.AsyncOpenAI]:
    plane.route()
    async with openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token) as client:
        yield client


def answers(said: dict[str, Any] | list[bytes]) -> Behaviour:
    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        if isinstance(said, dict):
            return web.json_response(said)
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        for part in said:
            await out.write(part)
        await out.write_eof()
        return out

    return behave


async def test_everything_the_engine_understands_arrives_untouched(
    plane: Plane, ask: openai.AsyncOpenAI
) -> None:
    tool = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,iVBORw0KGgo="}}
    messages: Any = [{"role": "user", "content": [{"type": "text", "text": "what is it?"}, image]}]
    more: Any = {
        "tools": [tool],
        "tool_choice": "auto",
        "response_format": {
            "type": "json_schema",
            "json_schema": {"name": "s", "schema": {"type": "object"}},
        },
        "logprobs": True,
        "top_logprobs": 2,
        "n": 2,
        "seed": 7,
        "stop": ["\n"],
        "logit_bias": {"5": 1},
        "max_completion_tokens": 9,
        "temperature": 0.5,
    }
    await ask.chat.completions.create(
        model="demo", messages=messages, extra_body={"guided_regex": "a+", "top_k": 3}, **more
    )
    assert plane.ingress.seen[0].body == {
        "model": "demo", "messages": messages, "guided_regex": "a+", "top_k": 3, **more
    }  # fmt: skip


async def test_what_the_engine_says_comes_back_whole(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    call = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    first = {
        "index": 0,
        "finish_reason": "tool_calls",
        "message": {"role": "assistant", "content": None, "tool_calls": [call]},
    }
    token = {"token": "a", "logprob": -0.5, "bytes": [97], "top_logprobs": []}
    second = {
        "index": 1,
        "finish_reason": "length",
        "message": {"role": "assistant", "content": "a"},
        "logprobs": {"content": [token]},
    }
    usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
    said = {"id": "x", "object": "chat.completion", "created": 1, "model": "demo", "usage": usage}
    plane.ingress.next = [answers({**said, "choices": [first, second]})]
    got = await ask.chat.completions.create(**ASK)
    assert got.choices[0].finish_reason == "tool_calls" and got.choices[0].message.tool_calls is not None
    assert got.choices[0].message.tool_calls[0].id == "c1"
    assert got.choices[1].finish_reason == "length" and got.choices[1].logprobs is not None
    assert got.usage is not None and got.usage.total_tokens == 9


async def test_a_stream_ends_as_the_sdk_expects_and_its_usage_is_not_shown_unasked(
    plane: Plane, ask: openai.AsyncOpenAI
) -> None:
    chunks = [chunk async for chunk in await ask.chat.completions.create(**ASK, stream=True)]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello world"
    assert all(chunk.usage is None for chunk in chunks)
    assert plane.ingress.seen[0].body["stream_options"] == {"include_usage": True}


async def test_a_stream_that_asked_for_usage_gets_it_last(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    stream = await ask.chat.completions.create(**ASK, stream=True, stream_options={"include_usage": True})
    chunks = [chunk async for chunk in stream]
    assert chunks[-1].choices == []
    assert chunks[-1].usage is not None and chunks[-1].usage.completion_tokens == 2


async def test_heartbeats_of_a_wait_are_invisible_to_the_sdk(plane: Plane) -> None:
    async with openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token) as client:
        stream = await client.chat.completions.create(
            **ASK, stream=True
        )  # the head comes with the first beat
        await plane.open()
        chunks = [chunk async for chunk in stream]
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "hello world"


async def test_closing_a_stream_stops_the_engine(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    plane.ingress.next = [go_on_for_ever]
    stream = await ask.chat.completions.create(**ASK, stream=True)
    await anext(aiter(stream))
    await stream.close()
    await until(lambda: plane.ingress.running == 0, "the engine is told")
    assert plane.ingress.seen[0].cut


async def test_an_error_in_the_middle_of_a_stream_is_an_exception(
    plane: Plane, ask: openai.AsyncOpenAI
) -> None:
    failed = b'data: {"error": {"message": "it broke", "code": "engine"}}\n\n'
    plane.ingress.next = [answers([event("hello"), failed])]
    stream = await ask.chat.completions.create(**ASK, stream=True)
    with pytest.raises(openai.APIError, match="it broke"):
        async for _ in stream:
            pass


async def test_completions(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    choice = {"index": 0, "text": "b", "finish_reason": "stop", "logprobs": None}
    usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
    said = {"id": "c", "object": "text_completion", "created": 1, "model": "demo", "usage": usage}
    plane.ingress.next = [answers({**said, "choices": [choice]})]
    got = await ask.completions.create(model="demo", prompt="a", echo=True, best_of=2)
    assert (got.choices[0].text, got.choices[0].finish_reason) == ("b", "stop")
    seen = plane.ingress.seen[0]
    assert (seen.path, seen.body) == (
        "/v1/completions", {"model": "demo", "prompt": "a", "echo": True, "best_of": 2}
    )  # fmt: skip


async def test_embeddings_as_the_sdk_asks_for_them(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    said = {
        "object": "list",
        "model": "demo",
        "data": [{"object": "embedding", "index": 0, "embedding": "AACAPwAAAEA="}],  # 1.0, 2.0
        "usage": {"prompt_tokens": 1, "total_tokens": 1},
    }
    plane.ingress.next = [answers(said)]
    got = await ask.embeddings.create(model="demo", input=["a"])
    assert got.data[0].embedding == [1.0, 2.0]
    assert plane.ingress.seen[0].body["encoding_format"] == "base64"
    (row,) = await until(lambda: plane.sql("SELECT id::text FROM ledger_request"), "its row")
    assert (await plane.ended(row[0]))["prompt_tokens"] == 1


async def test_models(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    assert [model.id async for model in ask.models.list()] == ["demo"]
    assert (await ask.models.retrieve("demo")).owned_by == "berth"
    with pytest.raises(openai.NotFoundError):
        await ask.models.retrieve("hidden")


async def test_the_time_in_line_is_told_before_the_answer(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    whole = await ask.chat.completions.with_raw_response.create(**ASK)
    assert 0 <= int(whole.headers["x-berth-queue-ms"]) < 10_000
    async with ask.chat.completions.with_streaming_response.create(**ASK, stream=True) as stream:
        assert 0 <= int(stream.headers["x-berth-queue-ms"]) < 10_000


async def test_errors_are_the_exceptions_that_programs_catch(plane: Plane, ask: openai.AsyncOpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        await ask.chat.completions.create(model="nothing", messages=ASK["messages"])
    assert missing.value.code == "model_not_found" and missing.value.param == "model"
    assert missing.value.request_id
    with pytest.raises(openai.BadRequestError) as wrong:
        await ask.chat.completions.create(**ASK, n=0)
    assert wrong.value.param == "n"
    with pytest.raises(openai.AuthenticationError):
        await ask.with_options(api_key="berth_" + "x" * 40).chat.completions.create(**ASK)
    plane.ingress.next = [reject(400, "too long")]
    with pytest.raises(openai.BadRequestError, match="too long"):
        await ask.chat.completions.create(**ASK)
    plane.ingress.next = [reject(422, "no such thing")]
    with pytest.raises(openai.UnprocessableEntityError):
        await ask.chat.completions.create(**ASK)
    plane.ingress.next = [reject(500, "broken")] * 3
    with pytest.raises(openai.InternalServerError):
        await ask.chat.completions.create(**ASK)
    assert json.dumps(ASK["messages"]) not in str(plane.sql("SELECT error_text FROM ledger_request"))
