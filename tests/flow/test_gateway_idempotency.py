"""Idempotency-Key: asked twice is done once, whoever asks the second time, whenever, and wherever."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from portal.admission import patience
from portal.ledger import repeats
from tests.flow.dataplane import Plane, chat, until
from tests.flow.fake_ingress import reject

KEY = {"Idempotency-Key": "k1"}


async def ask(plane: Plane, body: Any = None, **headers: str) -> tuple[int, str, str, bool]:
    """Return the status, the answer, the request, and whether the answer was given before."""
    async with plane.post(body, headers=KEY | headers) as answer:
        return (
            answer.status,
            await answer.text(),
            answer.headers["x-request-id"],
            answer.headers.get("idempotent-replayed") == "true",
        )


async def test_the_same_answer_comes_again_and_the_engine_is_asked_once(plane: Plane) -> None:
    plane.route()
    first = await ask(plane)
    assert first[0] == 200 and not first[3]
    await plane.ended(first[2])
    assert await ask(plane) == (*first[:3], True)
    assert len(plane.ingress.seen) == 1
    assert plane.sql("SELECT length(body) FROM ledger_payload") == [(0,)]  # only the answer is kept


async def test_a_stream_comes_again_as_a_stream_without_what_was_added_inside(plane: Plane) -> None:
    plane.route()
    first = await ask(plane, chat(stream=True))
    await plane.ended(first[2])
    again = await ask(plane, chat(stream=True))
    assert again == (*first[:3], True)
    assert again[1].endswith("data: [DONE]\n\n") and "usage" not in again[1] and ": berth" not in again[1]


async def test_another_body_under_the_same_key_is_refused(plane: Plane) -> None:
    plane.route()
    await ask(plane)
    status, text, _, _ = await ask(plane, chat(user="other"))
    assert (status, json.loads(text)["error"]["code"]) == (422, "idempotency_conflict")
    assert len(plane.ingress.seen) == 1


async def test_keys_are_the_tokens_own(plane: Plane) -> None:
    plane.route()
    first = await ask(plane)
    plane.sql("UPDATE ledger_idempotencykey SET token_id = token_id + 1")
    assert (await ask(plane))[2] != first[2]


async def test_whoever_asks_while_it_runs_waits_for_the_same_answer(plane: Plane) -> None:
    plane.route()
    plane.ingress.gate.clear()
    first = asyncio.create_task(ask(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    second = asyncio.create_task(ask(plane))
    stream = asyncio.create_task(ask(plane, chat(stream=True), **{"Idempotency-Key": "k2"}))
    await until(lambda: plane.ingress.running == 2, "the stream runs")
    beats = await plane.post(chat(stream=True), headers={"Idempotency-Key": "k2"}).__aenter__()
    assert (await beats.content.readline()).startswith(b": berth ")
    plane.ingress.gate.set()
    one, two = await asyncio.gather(first, second)
    assert two == (*one[:3], True)
    assert (await beats.text()).strip() == (await stream)[1].strip()
    assert len(plane.ingress.seen) == 2


async def test_whoever_cannot_wait_that_long_is_told_to_come_again(plane: Plane) -> None:
    plane.route()
    plane.ingress.gate.clear()
    first = asyncio.create_task(ask(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    async with plane.post(headers=KEY | {"x-stainless-read-timeout": "10.5"}) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "in_flight")
        assert answer.headers["X-Should-Retry"] == "true" and int(answer.headers["Retry-After"]) <= 60
    plane.ingress.gate.set()
    assert (await first)[0] == 200


async def test_the_engines_refusal_is_an_answer_too_but_its_failure_is_not(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [reject(400, "too long"), reject(500, "broken")]
    first = await ask(plane)
    await plane.ended(first[2])
    again = await ask(plane)
    assert again[0] == 400 and "too long" in again[1] and again[2:] == (first[2], True)
    broken = await ask(plane, **{"Idempotency-Key": "k2"})
    assert broken[0] >= 500
    await plane.ended(broken[2])
    assert (await ask(plane, **{"Idempotency-Key": "k2"}))[0] == 200
    assert len(plane.ingress.seen) == 3


async def test_a_client_that_left_gets_an_answer_when_it_asks_again(plane: Plane) -> None:
    plane.route()
    plane.ingress.gate.clear()
    first = asyncio.create_task(ask(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    first.cancel()
    await until(lambda: plane.ingress.running == 0, "it is cut off")
    plane.ingress.gate.set()
    status, text, _, replayed = await ask(plane)
    assert status == 200 and "hello world" in text and not replayed


async def test_a_key_has_its_place_back(plane: Plane) -> None:
    async with plane.post(headers=KEY | {"x-stainless-read-timeout": "10.5"}) as answer:
        first = answer.headers["x-request-id"]
        assert answer.status == 503
    again = asyncio.create_task(ask(plane))
    assert await plane.waiting() == [first]
    await plane.open()
    status, _, request, replayed = await again
    assert (status, request, replayed) == (200, first, False)
    await plane.ended(first)
    assert (await ask(plane))[2:] == (first, True)


async def test_what_was_refused_before_it_was_accepted_holds_no_key(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.3)
    plane.redis.config_set("maxmemory", "1")  # Redis takes no writes: no place in line
    try:
        async with plane.post(headers=KEY) as answer:
            assert answer.status == 503
    finally:
        plane.redis.config_set("maxmemory", "0")
    await until(lambda: plane.sql("SELECT count(*) FROM ledger_idempotencykey") == [(0,)], "no key")


async def test_answers_are_erased_after_their_time(plane: Plane) -> None:
    plane.route()
    first = await ask(plane)
    await plane.ended(first[2])
    with plane.pg.cursor() as cur:
        assert repeats.forget(cur, datetime.now(UTC) + timedelta(hours=23)) == 0
        assert repeats.forget(cur, datetime.now(UTC) + timedelta(hours=25)) == 1
    plane.pg.commit()
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]
    again = await ask(plane)
    assert again[0] == 200 and again[2] != first[2]


async def test_a_key_that_is_too_long_is_refused_by_name(plane: Plane) -> None:
    status, text, _, _ = await ask(plane, **{"Idempotency-Key": "k" * 256})
    assert (status, json.loads(text)["error"]["param"]) == (400, "Idempotency-Key")


async def test_asked_for_later_twice_is_one_request(plane: Plane) -> None:
    first = await ask(plane, Prefer="respond-async")
    again = await ask(plane, Prefer="respond-async")
    assert (first[0], again[0]) == (202, 202)
    assert first[1] == again[1] and again[2:] == (first[2], True)
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(1,)]
    assert (await ask(plane))[0] == 422  # the answer itself is another request
