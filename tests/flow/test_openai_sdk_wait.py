"""A model that takes long to come, and programs that know nothing of it: the SDK as it is, in a loop.

Scaled: "the most that a caller may be kept" is half a second instead of nine minutes, "come again in" one second
instead of thirty.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator

import openai
import pytest
import redis as redis_library
from psycopg2.extensions import connection as Connection

from portal.gateway import hold
from portal.redis import keys
from tests.flow import dataplane
from tests.flow.dataplane import Plane, Seeded, until
from tests.flow.test_openai_sdk_chat import ASK


@pytest.fixture
async def impatient(
    seeded: Seeded,
    test_dsn: str,
    pg: Connection,
    redis: redis_library.Redis,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Plane]:
    monkeypatch.setattr(hold, "_RETRY_UNKNOWN_S", 1)
    async with dataplane.running(seeded, test_dsn, pg, redis, max_wait_s=0.5) as plane:
        yield plane


def client(plane: Plane) -> openai.OpenAI:
    return openai.OpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token)


def in_a_loop(plane: Plane) -> tuple[str, str, int]:
    """Run a plain program; return its answer, the request's id, and the number of its calls."""
    calls = 0
    with client(plane) as ask:
        while True:
            calls += 1
            try:
                got = ask.chat.completions.create(**ASK)
            except openai.InternalServerError as error:
                assert error.code == "model_starting"
                continue
            return got.choices[0].message.content or "", got._request_id or "", calls


async def test_a_plain_loop_gets_its_answer_as_soon_as_the_model_is_there(impatient: Plane) -> None:
    plane = impatient
    asking = asyncio.create_task(asyncio.to_thread(in_a_loop, plane))
    (first,) = await plane.waiting()
    came_again = "SELECT count(*) FROM ledger_ticket WHERE claimed_by IS NOT NULL"
    for _ in range(4):  # more often than the SDK tries by itself
        await until(lambda: plane.sql(came_again) == [(0,)], "it was told to come again")
        await until(lambda: plane.sql(came_again) == [(1,)], "it came again")
    await plane.open()
    opened = time.monotonic()
    answer, request, calls = await asking
    assert (answer, request) == ("hello world", first) and calls >= 2
    assert time.monotonic() - opened < 10
    assert plane.sql("SELECT count(*), min(attempt) FROM ledger_request") == [(1, 1)]
    assert (await plane.ended(first))["state"] == "done"


async def test_the_sdks_own_retries_are_one_request(impatient: Plane) -> None:
    plane = impatient
    with client(plane) as ask:
        asking = asyncio.create_task(asyncio.to_thread(lambda: ask.chat.completions.create(**ASK)))
        (first,) = await plane.waiting()
        await until(lambda: plane.redis.zcard(keys.WAIT.of("demo")) == 0, "it was told to come again")
        await plane.open()
        got = await asking
    assert got._request_id == first and got.choices[0].finish_reason != "abort"


async def test_it_is_told_when_to_come_again_and_why(impatient: Plane) -> None:
    with client(impatient) as ask:
        with pytest.raises(openai.InternalServerError) as caught:
            await asyncio.to_thread(lambda: ask.with_options(max_retries=0).chat.completions.create(**ASK))
    headers = caught.value.response.headers
    assert (headers["retry-after"], headers["x-should-retry"]) == ("1", "true")
    assert "not loaded" in caught.value.message


async def test_the_sync_client_streams_through_a_wait(impatient: Plane) -> None:
    """A stream waits as long as it takes, whatever `max_wait_s` says."""
    plane = impatient

    def stream() -> str:
        with client(plane) as ask:
            chunks = ask.chat.completions.create(**ASK, stream=True)
            return "".join(chunk.choices[0].delta.content or "" for chunk in chunks)

    asking = asyncio.create_task(asyncio.to_thread(stream))
    await plane.waiting()
    end = time.monotonic() + 1.0
    await until(lambda: time.monotonic() > end, "longer than a whole answer may wait")
    await plane.open()
    assert await asking == "hello world"


async def test_the_sdks_own_time_out_never_comes_first(plane: Plane) -> None:
    """It announces its time-out; whatever ours is, it is told to come again before it gives up, and keeps its place."""
    assert plane.settings.max_wait_s > 60

    def ask_once() -> str:
        with client(plane).with_options(timeout=10.6, max_retries=0) as hasty:
            with pytest.raises(openai.InternalServerError) as caught:
                hasty.chat.completions.create(**ASK)
        return caught.value.code or ""

    asking = asyncio.create_task(asyncio.to_thread(ask_once))
    (first,) = await plane.waiting()
    assert await asking == "model_starting"
    again = asyncio.create_task(asyncio.to_thread(in_a_loop, plane))
    assert await plane.waiting() == [first]
    await plane.open()
    assert (await again)[:2] == ("hello world", first)
