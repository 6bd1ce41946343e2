"""Limits as programs with the official SDK meet them: an exception they know, what it says, and its own retries."""

from __future__ import annotations

import asyncio
import time

import openai
import pytest

from tests.flow.dataplane import Plane
from tests.flow.test_gateway_limits import _quota
from tests.flow.test_openai_sdk_chat import ASK


def client(plane: Plane, max_retries: int = openai.DEFAULT_MAX_RETRIES) -> openai.AsyncOpenAI:
    return openai.AsyncOpenAI(base_url=plane.url + "/v1", api_key=plane.seeded.token, max_retries=max_retries)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
async def test_over_a_limit_is_a_rate_limit_error_with_its_name_and_headers(
    plane: Plane, stream: bool
) -> None:
    plane.route()
    await _quota(plane, requests_per_min=2, tokens_per_min=100_000)
    async with client(plane, max_retries=0) as ask:
        for _ in range(2):
            await ask.chat.completions.create(**ASK)
        with pytest.raises(openai.RateLimitError) as caught:
            await ask.chat.completions.create(**ASK, stream=stream)
    error, headers = caught.value, caught.value.response.headers
    assert (error.status_code, error.code, error.type) == (429, "rate_limit_exceeded", "rate_limit_error")
    assert "2 requests per minute of this project" in error.message
    assert error.request_id == headers["x-request-id"]
    assert 1 <= int(headers["retry-after"]) <= 30
    assert {name for name in headers if name.startswith("x-ratelimit-")} == {
        f"x-ratelimit-{what}-{kind}"
        for what in ("limit", "remaining", "reset")
        for kind in ("requests", "tokens")
    }
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert int(headers["x-ratelimit-remaining-tokens"]) > 0, "a refusal at one limit takes nothing at another"


async def test_the_sdks_own_retry_comes_back_when_it_was_told_to(plane: Plane) -> None:
    """120 a minute: after a minute's worth at once there is room for one more every half second."""
    plane.route()
    await _quota(plane, requests_per_min=120)
    async with client(plane) as ask:
        await asyncio.gather(*(ask.chat.completions.create(**ASK) for _ in range(120)))
        begun = time.monotonic()
        got = await ask.chat.completions.create(**ASK)
    assert got.choices[0].message.content == "hello world"
    assert time.monotonic() - begun < 10
    assert len(plane.ingress.seen) == 121
