"""Limits on the data plane: who is refused and told what, what comes back, and rows that wait for a refill."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from portal.redis import keys
from scheduler.maintenance import parked_rows
from tests.flow import batch_world
from tests.flow.dataplane import Plane, chat, until
from tests.flow.test_workerapi_rows import _hot, _lease, _result, _send


async def _quota(plane: Plane, level: str = "project", subject: Any = None, **limits: int) -> None:
    """Set a quota as an administrator would; the gateway reads it within seconds."""
    subject = subject if subject is not None else plane.seeded.project
    column = "model" if level == "model" else f"{level}_id"
    names = ", ".join(["level", column, *limits])
    marks = ", ".join(["%s"] * (2 + len(limits)))
    plane.sql(f"INSERT INTO accounts_quota ({names}) VALUES ({marks})", (level, subject, *limits.values()))
    plane.gateway.directory.refresh_soon()
    await until(lambda: (level, str(subject)) in plane.gateway.directory.snapshot.quotas, "the quota")


async def _ask(plane: Plane, headers: dict[str, str] | None = None, **more: Any) -> tuple[int, Any, Any]:
    async with plane.post(chat(**more), headers=headers) as answer:
        return answer.status, answer.headers, await answer.json()


async def test_over_the_requests_of_a_minute_is_refused_and_told_when_to_come_back(plane: Plane) -> None:
    plane.route()
    await _quota(plane, requests_per_min=2)
    lefts = []
    for _ in range(2):
        status, headers, _ = await _ask(plane)
        assert status == 200
        lefts.append(headers["x-ratelimit-remaining-requests"])
    assert lefts == ["1", "0"]
    status, headers, said = await _ask(plane)
    assert (status, said["error"]["code"], said["error"]["type"]) == (
        429,
        "rate_limit_exceeded",
        "rate_limit_error",
    )
    assert "2 requests per minute of this project" in said["error"]["message"]
    assert 15 <= int(headers["retry-after"]) <= 30
    assert (headers["x-ratelimit-limit-requests"], headers["x-ratelimit-remaining-requests"]) == ("2", "0")
    assert headers["x-ratelimit-reset-requests"]
    assert len(plane.ingress.seen) == 2


async def test_tokens_are_reserved_by_estimate_and_settled_with_what_was_used(plane: Plane) -> None:
    """The estimate is 800 tokens for the answer alone; the engine reports 9. Two estimates would not fit at once, nor
    what refills in half a minute beside one."""
    plane.route()
    await _quota(plane, "user", plane.seeded.user, tokens_per_min=900)
    key = keys.LIMIT.of("user", plane.seeded.user, "tokens")
    for _ in range(4):
        status, headers, _ = await _ask(plane, max_tokens=800)
        assert status == 200
        assert int(headers["x-ratelimit-remaining-tokens"]) < 100
        await until(lambda: not plane.redis.exists(key) or plane.redis.ttl(key) < 5, "the settlement")
    plane.ingress.gate.clear()
    first = asyncio.create_task(_ask(plane, max_tokens=800))
    await until(lambda: plane.ingress.running == 1, "the first one to run")
    status, _, said = await _ask(plane, max_tokens=800)
    assert status == 429 and "900 tokens per minute of this user" in said["error"]["message"]
    plane.ingress.gate.set()
    assert (await first)[0] == 200


async def test_a_stream_carries_the_headers_too(plane: Plane) -> None:
    plane.route()
    await _quota(plane, "model", "demo", requests_per_min=7)
    async with plane.post(chat(stream=True)) as answer:
        assert answer.headers["x-ratelimit-limit-requests"] == "7"
        assert b"[DONE]" in await answer.read()


async def test_concurrent_requests_are_counted_until_they_end(plane: Plane) -> None:
    plane.route()
    await _quota(plane, "token", plane.seeded.token_pk, concurrent=1)
    plane.ingress.gate.clear()
    first = asyncio.create_task(_ask(plane))
    await until(lambda: plane.ingress.running == 1, "the first one to run")
    status, headers, said = await _ask(plane)
    assert status == 429 and "1 concurrent requests of this token" in said["error"]["message"]
    assert headers["retry-after"] == "1"
    plane.ingress.gate.set()
    assert (await first)[0] == 200
    key = keys.LIMIT.of("token", plane.seeded.token_pk, "concurrent")
    await until(lambda: not plane.redis.exists(key), "the place to be given back")
    assert (await _ask(plane))[0] == 200


async def test_only_so_many_may_wait_and_a_grant_makes_room_in_the_line(plane: Plane) -> None:
    await _quota(plane, queued=1)
    first = asyncio.create_task(_ask(plane))
    await plane.waiting(1)
    status, _, said = await _ask(plane)
    assert status == 429 and "1 queued requests of this project" in said["error"]["message"]
    plane.ingress.gate.clear()
    await plane.open(cap=1)
    await until(lambda: plane.ingress.running == 1, "the first one to run")
    second = asyncio.create_task(_ask(plane))
    await plane.waiting(1)
    plane.ingress.gate.set()
    assert [status for status, _, _ in await asyncio.gather(first, second)] == [200, 200]


async def test_a_client_that_leaves_gives_everything_back(plane: Plane) -> None:
    await _quota(plane, tokens_per_min=900, concurrent=1, queued=1)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.5):
            await _ask(plane, max_tokens=800)
    taken = [
        keys.LIMIT.of("project", plane.seeded.project, kind) for kind in ("tokens", "concurrent", "queued")
    ]
    await until(lambda: not plane.redis.exists(*taken), "everything to be given back")


async def test_a_gateway_that_died_holds_nobody_back(plane: Plane) -> None:
    """Its leases run out; they were never bare counters."""
    plane.route()
    await _quota(plane, concurrent=1)
    key = keys.LIMIT.of("project", plane.seeded.project, "concurrent")
    plane.redis.zadd(key, {"of-a-dead-gateway": 1.0})
    assert (await _ask(plane))[0] == 200


async def test_where_nobody_waits_it_is_parked_and_goes_on_when_the_limit_refills(plane: Plane) -> None:
    await _quota(plane, requests_per_min=1)
    later = {"Prefer": "respond-async"}
    first, second = [await _ask(plane, later) for _ in range(2)]
    assert (first[0], second[0]) == (202, 202)
    assert (first[2]["state"], second[2]["state"]) == ("queued", "parked")
    row = plane.row(second[2]["id"])
    assert row is not None and row["state"] == "parked"
    assert await batch_world.in_thread(parked_rows.unpark) == [], "not refilled yet"
    plane.redis.delete(keys.LIMIT.of("project", plane.seeded.project, "requests"))
    moved = await batch_world.in_thread(parked_rows.unpark)
    assert [str(id_) for id_ in moved] == [second[2]["id"]]
    row = plane.row(second[2]["id"])
    assert row is not None and row["state"] == "queued"


async def test_rows_that_pilots_ran_are_settled_with_what_they_used(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    await _quota(plane, tokens_per_min=1000)
    status, headers, _ = await _ask(plane, {"Prefer": "respond-async"}, max_tokens=600)
    assert status == 202 and int(headers["x-ratelimit-remaining-tokens"]) < 400
    (row,) = await _lease(pilot, replica)
    await _send(pilot, _result(row, prompt_tokens=40, completion_tokens=260))
    status, headers, said = await _ask(plane, {"Prefer": "respond-async"}, max_tokens=600)
    assert (status, said["state"]) == (202, "queued")
    # 300 used, 600 and the prompt reserved; 17 come back each second, and there would be 380 if none had been used.
    assert 50 <= int(headers["x-ratelimit-remaining-tokens"]) < 350


async def test_a_row_that_the_engine_refused_used_nothing(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    await _quota(plane, tokens_per_min=1000)
    for _ in range(3):
        status, _, said = await _ask(plane, {"Prefer": "respond-async"}, max_tokens=900)
        assert (status, said["state"]) == (202, "queued"), "what was refused before has left no room"
        (row,) = await _lease(pilot, replica)
        refused = dataclasses.replace(batch_world.refused(row), prompt_tokens=0, completion_tokens=0)
        await _send(pilot, refused)


@pytest.mark.parametrize("level", ["project", "model"])
async def test_a_batch_that_would_pass_the_queued_limit_fails_whole_and_says_so(
    plane: Plane, level: str
) -> None:
    await _quota(plane, level, "demo" if level == "model" else plane.seeded.project, queued=5)
    lines = [batch_world.line(f"line-{i}") for i in range(3)]
    first = await batch_world.create(plane, batch_world.jsonl(*lines))
    second = await batch_world.create(plane, batch_world.jsonl(*lines))
    await batch_world.look(plane)
    assert (await batch_world.state(plane, first.id)).status == "in_progress"
    failed = await batch_world.state(plane, second.id)
    assert failed.status == "failed" and failed.errors and failed.errors.data
    (error,) = failed.errors.data
    assert error.code == "rate_limit_exceeded" and error.line is None
    assert error.message and f"more than 5 queued requests of this {level}" in error.message
    assert len(batch_world.requests_of(plane)) == 3


async def test_a_batch_under_a_rate_runs_as_it_refills_in_the_files_order(plane: Plane) -> None:
    await _quota(plane, requests_per_min=2)
    await batch_world.create(plane, batch_world.jsonl(*(batch_world.line(f"line-{i}") for i in range(5))))
    await batch_world.look(plane)
    assert set(batch_world.requests_of(plane).values()) == {"parked"}
    assert len(await batch_world.in_thread(parked_rows.unpark)) == 2
    assert list(batch_world.requests_of(plane).values()) == ["queued", "queued", "parked", "parked", "parked"]
    assert await batch_world.in_thread(parked_rows.unpark) == []


async def test_while_redis_is_away_nothing_passes_uncounted(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portal.admission import patience
    from portal.admission.pipe import QueueDown

    async def away(*_: Any) -> Any:
        raise QueueDown("away")

    plane.route()
    await _quota(plane, requests_per_min=100)
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    for asking in ("limit", "enter"):
        monkeypatch.setattr(plane.gateway.slots, asking, away)
    status, _, said = await _ask(plane)
    assert (status, said["error"]["code"]) == (503, "queue_unavailable")
    status, _, said = await _ask(plane, {"Prefer": "respond-async"})
    assert (status, said["state"]) == (202, "parked")
    assert plane.ingress.seen == []


async def test_without_quotas_redis_is_not_asked(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    async def asked(*_: Any) -> Any:
        raise AssertionError("asked")

    plane.route()
    for asking in ("limit", "enter"):
        monkeypatch.setattr(plane.gateway.slots, asking, asked)
    status, headers, _ = await _ask(plane)
    assert status == 200 and "x-ratelimit-limit-requests" not in headers


async def _told_to_come_again(plane: Plane, **more: Any) -> None:
    status, _, said = await _ask(plane, {"x-stainless-read-timeout": "10.5"}, **more)  # held for a second
    assert (status, said["error"]["code"]) == (503, "model_starting")


async def test_one_that_comes_again_for_its_place_is_one_request(plane: Plane) -> None:
    await _quota(plane, requests_per_min=1)
    await _told_to_come_again(plane)
    plane.route()
    status, headers, _ = await _ask(plane)
    assert status == 200 and headers["x-ratelimit-remaining-requests"] == "0"
    status, _, said = await _ask(plane)
    assert status == 429 and "1 requests per minute" in said["error"]["message"]


async def test_one_that_comes_again_for_its_place_reserves_its_tokens_once(plane: Plane) -> None:
    await _quota(plane, tokens_per_min=900)
    await _told_to_come_again(plane, max_tokens=500)
    plane.route()
    assert (await _ask(plane, max_tokens=500))[0] == 200


async def test_one_that_is_back_in_its_place_is_counted_there_and_not_refused(plane: Plane) -> None:
    key = keys.LIMIT.of("project", plane.seeded.project, "queued")
    await _quota(plane, queued=1)
    await _told_to_come_again(plane, user="first")
    await until(lambda: not plane.redis.zcard(key), "nobody in line")
    second = asyncio.create_task(_ask(plane, user="second"))
    await plane.waiting(1)
    first = asyncio.create_task(_ask(plane, user="first"))
    await plane.waiting(2)
    assert plane.redis.zcard(key) == 2
    status, _, said = await _ask(plane, user="third")
    assert status == 429 and "1 queued requests" in said["error"]["message"]
    await plane.open()
    assert [status for status, _, _ in await asyncio.gather(first, second)] == [200, 200]
    await until(lambda: not plane.redis.zcard(key), "nobody in line")
