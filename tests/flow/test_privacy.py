"""Prompts are not kept (invariant 14): after the end no log, table or Redis key holds a canary that was asked or
answered, but the payload of what its owner will fetch, until retention.

The gateway, the worker API and Django's side all run in this process, so its log is every process's log.
"""

from __future__ import annotations

import asyncio
import json
import logging
import uuid
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_library
from aiohttp import web
from django.utils import timezone

from portal.ledger import transitions
from tests.flow import batch_world
from tests.flow.batch_world import jsonl, line
from tests.flow.dataplane import Plane, answered, chat, until
from tests.flow.fake_ingress import answer_well, break_off, go_on_for_ever, lose, reject
from tests.flow.pilot_client import seen
from tests.flow.test_workerapi_rows import _hot, _lease, _result, _send

CANARY = "canary-7f3a-in-the-prompt"
ANSWER = "canary-7f3a-in-the-answer"
BOTH = "canary-7f3a"


@pytest.fixture(autouse=True)
def everything_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)


def _ask(**more: Any) -> dict[str, Any]:
    return chat(messages=[{"role": "user", "content": CANARY}], **more)


def _in_tables(plane: Plane) -> list[str]:
    """Search every text, JSON or bytes column of every table.

    A row is searched as its own text, in which bytes are hex.
    """
    found = []
    hexed = BOTH.encode().hex()
    tables = plane.sql("SELECT table_name FROM information_schema.tables WHERE table_schema = 'public'")
    assert len(tables) > 20
    for (table,) in tables:
        n = plane.sql(
            f'SELECT count(*) FROM "{table}" t WHERE t::text LIKE %s OR t::text LIKE %s',
            (f"%{BOTH}%", f"%{hexed}%"),
        )[0][0]
        found += [table] * n
    return found


def _in_redis(redis: redis_library.Redis) -> list[bytes]:
    """Search every key of every type; not by DUMP, which compresses."""
    read: dict[bytes, Any] = {
        b"string": redis.get,
        b"hash": redis.hgetall,
        b"set": redis.smembers,
        b"list": lambda key: redis.lrange(key, 0, -1),
        b"zset": lambda key: redis.zrange(key, 0, -1),
    }
    return [key for key in redis.scan_iter() if BOTH in repr((key, read[redis.type(key)](key)))]  # type: ignore[index]


def _nowhere(plane: Plane, caplog: pytest.LogCaptureFixture, but: list[str] | None = None) -> None:
    assert BOTH not in caplog.text
    assert _in_redis(plane.redis) == []
    assert _in_tables(plane) == (but or [])


async def _says(ingress: Any, request: Any, seen: Any) -> Any:
    await ingress.gate.wait()
    choice = {"index": 0, "message": {"role": "assistant", "content": ANSWER}}
    return web.json_response({"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 4}})


async def test_the_search_finds_what_is_there(plane: Plane) -> None:
    """Or it would prove nothing."""
    asking = asyncio.create_task(answered(plane, _ask()))
    await plane.waiting(1)
    plane.redis.hset("there", "field", BOTH)
    assert _in_tables(plane) == ["ledger_payload"], "it waits: its body has to be somewhere"
    assert _in_redis(plane.redis) == [b"there"]
    plane.redis.delete("there")
    await plane.open()
    assert (await asking)[0] == 200


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize("hot", [True, False], ids=["hot", "cold"])
async def test_held_and_done(plane: Plane, caplog: pytest.LogCaptureFixture, stream: bool, hot: bool) -> None:
    plane.ingress.next = [answer_well if stream else _says]
    if hot:
        plane.route()
    asking = asyncio.create_task(answered(plane, _ask(stream=stream)))
    if not hot:
        await plane.waiting(1)
        await plane.open()
    status, text, request = await asking
    assert status == 200 and ("hello" if stream else ANSWER) in text
    assert (await plane.ended(request))["state"] == "done"
    _nowhere(plane, caplog)


@pytest.mark.parametrize("hot", [True, False], ids=["hot", "cold"])
async def test_held_and_failed(plane: Plane, caplog: pytest.LogCaptureFixture, hot: bool) -> None:
    """An engine's own words may quote the prompt: the client gets them, nobody else."""
    plane.ingress.next = [reject(400, f"cannot do {CANARY}")]
    if hot:
        plane.route()
    asking = asyncio.create_task(answered(plane, _ask()))
    if not hot:
        await plane.waiting(1)
        await plane.open()
    status, text, request = await asking
    assert status == 400 and CANARY in text
    assert (await plane.ended(request))["state"] == "failed"
    _nowhere(plane, caplog)


async def test_held_and_poisoned(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.ingress.next = [lose("crash")] * 3
    asking = asyncio.create_task(answered(plane, _ask()))
    for _ in range(3):
        await plane.waiting(1)
        await plane.open()
    status, _, request = await asking
    assert status == 500
    assert (await plane.ended(request))["error_code"] == "poison"
    _nowhere(plane, caplog)


async def test_a_stream_that_broke_off(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.route()
    plane.ingress.next = [break_off(after=2)]
    _, text, request = await answered(plane, _ask(stream=True))
    assert "replica_lost" in text
    assert (await plane.ended(request))["state"] == "failed"
    _nowhere(plane, caplog)


async def test_a_client_that_left_while_it_waited_and_while_it_ran(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    ids = []
    for waits in (True, False):
        if not waits:
            await plane.open()
            plane.ingress.next = [go_on_for_ever]
        async with plane.post(_ask(stream=True)) as answer:
            ids.append(answer.headers["x-request-id"])
            await answer.content.readany()
    for request in ids:
        assert (await plane.ended(request))["state"] == "cancelled"
    _nowhere(plane, caplog)


async def test_refused_before_anything_was_done(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    bad = [
        json.dumps(_ask(temperature=CANARY)).encode(),
        json.dumps({"model": "no-such-model", "messages": [{"role": "user", "content": CANARY}]}).encode(),
        b'{"model": "demo", "messages": "' + CANARY.encode() + b"\xff",
        b'{"prompt": ' + CANARY.encode(),
    ]
    for body in bad:
        async with plane.post(body) as answer:
            assert answer.status in (400, 404)
    _nowhere(plane, caplog)


async def test_an_error_of_our_own(
    plane: Plane, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The traceback is logged; it shows code, not bodies."""

    async def breaks(*_: Any, **__: Any) -> Any:
        raise ValueError("something of ours")

    plane.route()
    monkeypatch.setattr(plane.gateway._forward, "run", breaks)
    status, _, _ = await answered(plane, _ask())
    assert status == 500 and "something of ours" in caplog.text
    await asyncio.sleep(0)
    await until(lambda: _in_tables(plane) == [], "the payload to be erased")
    _nowhere(plane, caplog)


async def _later(plane: Plane) -> str:
    async with plane.post(_ask(), headers={"Prefer": "respond-async"}) as answer:
        assert answer.status == 202
        return str(answer.headers["x-request-id"])


async def test_async_results_are_their_owners_until_retention(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    pilot, replica = await _hot(plane)
    request = await _later(plane)
    (row,) = await _lease(pilot, replica)
    await _send(pilot, _result(row, body=json.dumps({"choices": [{"message": {"content": ANSWER}}]})))
    assert (await plane.ended(request))["state"] == "done"
    _nowhere(plane, caplog, but=["ledger_payload"])
    with plane.pg.cursor() as cur:
        assert transitions.erase_results(cur, timezone.now() + timedelta(days=1)) == 1
    plane.pg.commit()
    _nowhere(plane, caplog)


async def test_async_failed_poisoned_and_cancelled(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    pilot, replica = await _hot(plane)
    failed = await _later(plane)
    (row,) = await _lease(pilot, replica)
    body = json.dumps({"error": {"message": f"cannot do {CANARY}", "type": "BadRequestError"}})
    await _send(pilot, _result(row, "failed", status=400, body=body, error_code="engine_refused"))
    assert (await plane.ended(failed))["error_text"] == "The engine answered with an error (BadRequestError)."
    poisoned = await _later(plane)
    for _ in range(3):
        (row,) = await _lease(pilot, replica)
        await _send(pilot, _result(row, "back", crashed=True))
    assert (await plane.ended(poisoned))["error_code"] == "poison"
    cancelled = await _later(plane)
    with plane.pg.cursor() as cur:
        transitions.cancel(cur, [uuid.UUID(cancelled)], timezone.now(), "by its owner")
    plane.pg.commit()
    # The one that failed has a result, which is its owner's: the engine's words.
    _nowhere(plane, caplog, but=["ledger_payload"])


async def test_a_pilots_observations_and_log_tail_do_not_stay_in_redis(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    """An engine may log what it is asked; what a pilot sends of its log is for operators' eyes, once."""
    pilot, replica = await _hot(plane)
    status, _ = await pilot.sync(seen(replica), log_tail=f"INFO prompt: {CANARY}")
    assert status == 200
    assert _in_redis(plane.redis) == []
    assert BOTH not in caplog.text


async def test_with_a_key_only_the_answer_is_kept(plane: Plane, caplog: pytest.LogCaptureFixture) -> None:
    plane.route()
    plane.ingress.next = [_says]
    async with plane.post(_ask(), headers={"Idempotency-Key": "once"}) as answer:
        assert answer.status == 200
        await plane.ended(answer.headers["x-request-id"])
    _nowhere(plane, caplog, but=["ledger_payload"])
    assert plane.sql("SELECT body, result IS NOT NULL FROM ledger_payload")[0][1] is True
    assert bytes(plane.sql("SELECT body FROM ledger_payload")[0][0]) == b""


async def test_a_batchs_prompts_and_answers_lie_in_its_files_alone(
    plane: Plane, caplog: pytest.LogCaptureFixture
) -> None:
    pilot, replica = await _hot(plane)
    wrong = await batch_world.create(plane, jsonl(line("a", CANARY), line("b", CANARY, method="GET")))
    batch = await batch_world.create(plane, jsonl(*(line(str(i), CANARY) for i in range(3))))
    await batch_world.look(plane)
    assert (await batch_world.state(plane, wrong.id)).status == "failed"
    rows = await _lease(pilot, replica)
    _nowhere(plane, caplog)  # while it waits and runs: rows know where in the file they are
    said = json.dumps({"choices": [{"message": {"content": ANSWER}}]})
    error = json.dumps({"error": {"message": f"cannot do {CANARY}", "type": "BadRequestError"}})
    await _send(pilot, _result(rows[0], body=said))
    await _send(pilot, _result(rows[1], "failed", status=400, body=error, error_code="engine_refused"))
    await batch_world.look(plane)
    await _send(pilot, _result(rows[2], body=said))
    await batch_world.look(plane)
    done = await batch_world.state(plane, batch.id)
    assert done.status == "completed"
    _nowhere(plane, caplog)
    assert ANSWER in str(await batch_world.read(plane, done.output_file_id))
    assert CANARY in str(await batch_world.read(plane, done.error_file_id))
    assert _on_disk(plane)
    async with batch_world.sdk(plane) as client:
        for file in (await client.files.list()).data:
            await client.files.delete(file.id)
    assert not _on_disk(plane)


def _on_disk(plane: Plane) -> list[str]:
    found = [path for path in plane.settings.files_dir.rglob("*") if path.is_file()]
    return [path.name for path in found if BOTH.encode() in path.read_bytes()]
