"""Replicas that hang, talk rubbish or trickle, and clients that do not read or vanish: nobody else pays for it."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any

import pytest
from aiohttp import web

from portal.redis import keys
from tests.flow.dataplane import Plane, answered, chat, until
from tests.flow.fake_ingress import Behaviour, FakeIngress, Seen, event

MOST_ON_THE_WAY = 24 * 2**20  # what kernel, ingress and gateway may hold of an answer that nobody reads


def _hang(then_break: bool = False) -> Behaviour:
    """Take the request and send nothing; until the gate opens, if it breaks then."""

    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        await (ingress.gate.wait() if then_break else asyncio.Event().wait())
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    return behave


def _say(body: bytes, kind: str = "application/json") -> Behaviour:
    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        return web.Response(body=body, headers={"Content-Type": kind})

    return behave


# Replicas


async def test_a_replica_that_hangs_keeps_its_own_place_and_nobody_else(plane: Plane) -> None:
    plane.route(cap=1)
    plane.ingress.next = [_hang()]
    hung = asyncio.create_task(answered(plane, chat(user="hung")))
    await until(lambda: plane.ingress.running == 1, "it hangs")
    replica = plane.route(cap=1)
    assert [(await answered(plane))[0] for _ in range(3)] == [200] * 3
    assert {seen.headers["x-berth-replica"] for seen in plane.ingress.seen[1:]} == {replica}
    hung.cancel()  # there is no limit of our own on how long an engine may think
    await until(lambda: plane.ingress.seen[0].cut, "the engine is told")
    slots = plane.redis.keys(keys.SLOTS.of("demo", "*"))
    await until(lambda: not any(plane.redis.zcard(key) for key in slots), "no slot in use")


@pytest.mark.parametrize("stream", [False, True])
async def test_one_that_hung_and_died_is_answered_by_another(plane: Plane, stream: bool) -> None:
    plane.ingress.gate.clear()
    plane.route(cap=1)
    plane.ingress.next = [_hang(then_break=True)]
    asking = asyncio.create_task(answered(plane, chat(stream=stream)))
    await until(lambda: plane.ingress.running == 1, "it hangs")
    plane.route(cap=1)
    plane.ingress.gate.set()
    status, text, request = await asking
    assert status == 200 and "world" in text and "error" not in text
    row = await plane.ended(request)
    assert (row["state"], row["attempt"], row["crashes"]) == ("done", 1, 0)


@pytest.mark.parametrize(
    "rubbish",
    [b"\xff\x00 nonsense \r\n\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\nok", b"HTTP/1.1 "],
)
async def test_what_is_not_http_is_no_answer(plane: Plane, rubbish: bytes) -> None:
    async with _speaking(rubbish) as url:
        broken = plane.route(url=url)
        asking = asyncio.create_task(answered(plane))
        await plane.waiting()
        assert not plane.redis.hexists(keys.ROUTES.of("demo"), broken)
        await plane.open()
        status, text, _ = await asking
        assert status == 200 and "hello world" in text


@contextlib.asynccontextmanager
async def _speaking(rubbish: bytes) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(rubbish)
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", [b"\xff<garbage>", b"", b'"text"', b'{"choices": [', b"<html></html>"])
async def test_an_answer_that_is_no_object_is_the_engines_failure(
    plane: Plane, body: bytes, stream: bool
) -> None:
    plane.route()
    plane.ingress.next = [_say(body)]
    status, text, request = await answered(plane, chat(stream=stream))
    assert (status, json.loads(text)["error"]["code"]) == (502, "engine_error")
    assert "garbage" not in text
    row = await plane.ended(request)
    assert (row["state"], row["error_code"]) == ("failed", "engine_error")


async def test_numbers_that_no_engine_counts_do_not_keep_a_request_from_its_end(plane: Plane) -> None:
    """The ledger could not store them: the request would be running for ever."""
    plane.route()
    many = 10**30
    whole = json.dumps({"choices": [], "usage": {"prompt_tokens": 999_999_999_9, "completion_tokens": -3}})
    stream = b'data: {"choices": [], "usage": {"prompt_tokens": %d, "completion_tokens": %d}}\n\n' % (
        many,
        -many,
    )
    plane.ingress.next = [
        _say(whole.encode()),
        _say(event("x") + stream + b"data: [DONE]\n\n", "text/event-stream"),
    ]
    for asked in (chat(), chat(stream=True)):
        status, _, request = await answered(plane, asked)
        assert status == 200
        row = await plane.ended(request)
        assert row["state"] == "done" and 0 <= (row["completion_tokens"] or 0) < 2**31


async def test_a_slow_replica_is_passed_on_as_it_speaks(plane: Plane) -> None:
    step = asyncio.Queue[None]()

    async def trickle(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        for number in range(5):
            await step.get()
            await out.write(event(f"part {number}"))
        await out.write(b"data: [DONE]\n\n")
        return out

    plane.route()
    plane.ingress.next = [trickle]
    step.put_nowait(None)
    async with plane.post(chat(stream=True)) as answer:
        for number in range(5):
            said = await answer.content.readuntil(b"\n\n")
            assert f"part {number}".encode() in said and b"data:" in said
            step.put_nowait(None)  # not before the client has what came before
        assert (await answer.content.read()).endswith(b"data: [DONE]\n\n")


# Clients


class _Flood:
    """An endless answer, as fast as it is taken; `sent` counts."""

    def __init__(self) -> None:
        self.sent = 0
        self.waits_since = asyncio.Event()

    async def behave(self, ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        part = event("x" * 65_536)
        while self.sent < 4 * MOST_ON_THE_WAY:
            writing = asyncio.ensure_future(out.write(part))
            done, _ = await asyncio.wait({writing}, timeout=1.0)
            if not done:
                self.waits_since.set()
            await writing
            self.sent += len(part)
        await out.write(b"data: [DONE]\n\n")
        return out


async def test_a_client_that_does_not_read_stops_the_engine_not_the_memory(plane: Plane) -> None:
    """What is not taken piles up nowhere: the whole way stands still, and goes on when the client reads."""
    flood = _Flood()
    plane.route()
    plane.ingress.next = [flood.behave]
    async with plane.post(chat(stream=True)) as answer:
        await asyncio.wait_for(flood.waits_since.wait(), 30)
        assert flood.sent < MOST_ON_THE_WAY
        other = await answered(plane)  # others are answered meanwhile
        assert other[0] == 200
        size, last = 0, b""
        async for part in answer.content.iter_any():
            size, last = size + len(part), (last + part)[-100:]
    assert size > 4 * MOST_ON_THE_WAY and last.endswith(b"data: [DONE]\n\n")
    assert (await plane.ended(answer.headers["x-request-id"]))["state"] == "done"


async def test_a_client_that_neither_reads_nor_stays_ends_its_request(plane: Plane) -> None:
    flood = _Flood()
    replica = plane.route()
    plane.ingress.next = [flood.behave]
    async with plane.post(chat(stream=True)) as answer:
        request = answer.headers["x-request-id"]
        await asyncio.wait_for(flood.waits_since.wait(), 30)
        answer.close()
    row = await plane.ended(request)
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    await until(lambda: plane.slots(replica) == 0 and plane.ingress.running == 0, "the slot free again")


async def test_fifty_that_vanish_at_once_leave_nothing_behind(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route(cap=4)
    asking = [asyncio.create_task(answered(plane, chat(stream=i % 2 == 1, user=str(i)))) for i in range(50)]
    await until(lambda: plane.ingress.running == 4, "some run")
    await plane.waiting(46)
    for task in asking:
        task.cancel()
    await asyncio.gather(*asking, return_exceptions=True)
    states = "SELECT state, count(*) FROM ledger_request GROUP BY 1"
    await until(lambda: plane.sql(states) == [("cancelled", 50)], "every one to end")
    await until(lambda: plane.slots(replica) == 0 and plane.ingress.running == 0, "no slot in use")
    await until(lambda: not plane.redis.exists(keys.WAIT.of("demo"), keys.OWNER.of("demo")), "an empty line")
    assert plane.gateway.keeper.in_hand == 0 and plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]
    plane.ingress.gate.set()
    assert (await answered(plane))[0] == 200


async def test_a_client_that_vanishes_while_it_sends_has_asked_nothing(plane: Plane) -> None:
    plane.route()
    host, port = plane.url.removeprefix("http://").split(":")
    head: Any = (
        f"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {plane.seeded.token}\r\n"
    )
    writers = []
    for _ in range(20):
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            head.encode() + b"Content-Length: 10000000\r\n\r\n" + b'{"model": "demo", ' + b" " * 500_000
        )
        await writer.drain()
        writers.append(writer)
    for writer in writers:
        writer.transport.abort()
    assert (await answered(plane))[0] == 200
    assert len(plane.ingress.seen) == 1 and plane.gateway.keeper.in_hand == 0
    await until(lambda: plane.sql("SELECT count(*) FROM ledger_request") == [(1,)], "the one that asked")
