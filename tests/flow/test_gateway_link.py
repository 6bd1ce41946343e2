"""The gateway's connections to ingresses: kept, replaced, and never taken for a whole answer when they break."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from portal.transport.link import Link, LinkLost, Links, Unreachable, address

Reader = asyncio.StreamReader
Writer = asyncio.StreamWriter
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nX-Berth-Refused: full\r\n\r\nok"
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


class Peer:
    """A server that says what the test tells it to, and remembers what it heard."""

    def __init__(self, say: Callable[[Writer], Awaitable[None]]) -> None:
        self.say = say
        self.heard: list[bytes] = []
        self.connections = 0
        self.closed = asyncio.Event()
        self.base = ""

    async def serve(self, reader: Reader, writer: Writer) -> None:
        self.connections += 1
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                self.heard.append(head + await reader.readexactly(int(_length(head))))
                await self.say(writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.closed.set()
        finally:
            writer.close()


def _length(head: bytes) -> bytes:
    return head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]


@asynccontextmanager
async def peer(*parts: bytes, hang_up: bool = False) -> AsyncIterator[tuple[Peer, Links]]:
    async def say(writer: Writer) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()
        if hang_up:
            writer.close()

    one, links = Peer(say), Links()
    server = await asyncio.start_server(one.serve, "127.0.0.1", 0)
    one.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield one, links
    finally:
        links.close()
        server.close()
        await server.wait_closed()


async def ask(one: Peer, links: Links) -> tuple[Link, bytes]:
    link = await links.send(one.base, "/v1/x", "X-A: b\r\n", b"{}")
    try:
        return link, await link.rest()
    finally:
        links.done(one.base, link)


async def test_an_answer_comes_whole_and_its_connection_is_used_again() -> None:
    async with peer(OK) as (one, links):
        for _ in range(3):
            link, body = await ask(one, links)
            assert (link.status, body, link.headers[b"x-berth-refused"]) == (200, b"ok", b"full")
        assert one.connections == 1
        assert one.heard[0].startswith(b"POST /v1/x HTTP/1.1\r\nHost: 127.0.0.1:")
        assert one.heard[0].endswith(b"\r\nX-A: b\r\nContent-Length: 2\r\n\r\n{}")


async def test_requests_at_the_same_time_have_a_connection_each() -> None:
    async with peer(OK) as (one, links):
        await asyncio.gather(*[ask(one, links) for _ in range(5)])
        assert one.connections == 5


async def test_a_refusal_that_nobody_reads_leaves_nothing_for_the_next_request() -> None:
    async with peer(OK) as (one, links):
        link = await links.send(one.base, "/v1/x", "", b"")
        links.done(one.base, link)
        assert (await ask(one, links))[1] == b"ok"


async def test_a_connection_that_was_closed_while_it_was_idle_is_replaced() -> None:
    async with peer(OK, hang_up=True) as (one, links):
        for _ in range(3):
            link, body = await ask(one, links)
            assert body == b"ok"
            async with asyncio.timeout(30):
                while link.usable:
                    await asyncio.sleep(0.005)
        assert one.connections == 3


@pytest.mark.parametrize(
    ("said", "seen"),
    [
        (b"", b""),
        (b"HTTP/1.1 200 OK\r\nContent-", b""),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf", b"half"),
        (CHUNKED + b"4\r\nhalf\r\n", b"half"),
        (b"HTTP/1.1 200 OK\r\n\r\nhalf", b"half"),  # no length: its end would be a guess
        (b"220 mail.example.org ESMTP\r\n", b""),
    ],
)
async def test_an_answer_without_its_end_is_lost(said: bytes, seen: bytes) -> None:
    async with peer(said, hang_up=True) as (one, links):
        got = b""
        with pytest.raises(LinkLost):
            link = await links.send(one.base, "/v1/x", "", b"{}")
            while part := await link.some():
                got += part
        assert got == seen


async def test_a_connection_that_says_more_than_it_was_asked_is_not_used_again() -> None:
    async with peer(OK + OK) as (one, links):
        link, body = await ask(one, links)
        assert body == b"ok" and not link.usable
        assert (await ask(one, links))[1] == b"ok"
        assert one.connections == 2


async def test_chunks_come_as_they_are_sent_and_a_slow_reader_stops_the_sender() -> None:
    chunk = b"10000\r\n" + b"x" * 0x10000 + b"\r\n"
    sent = 0

    async def pour(writer: Writer) -> None:
        nonlocal sent
        writer.write(CHUNKED)
        for _ in range(400):
            writer.write(chunk)
            await writer.drain()
            sent += 1
        writer.write(b"0\r\n\r\n")

    async with peer() as (one, links):
        one.say = pour
        link = await links.send(one.base, "/v1/x", "", b"{}")
        before = -1
        while before != sent:  # until it does not get on
            before = sent
            await asyncio.sleep(0.2)
        assert 0 < sent < 400
        assert len(await link.rest()) == 400 * 0x10000
        links.done(one.base, link)
        assert link.usable


async def test_giving_a_half_read_answer_back_closes_its_connection() -> None:
    async with peer(CHUNKED + b"4\r\nhalf\r\n") as (one, links):
        link = await links.send(one.base, "/v1/x", "", b"{}")
        assert await link.some() == b"half"
        links.done(one.base, link)
        await asyncio.wait_for(one.closed.wait(), 30)


async def test_a_cancelled_request_closes_its_connection() -> None:
    async with peer() as (one, links):
        task = asyncio.create_task(links.send(one.base, "/v1/x", "", b"{}"))
        async with asyncio.timeout(30):
            while not one.heard:
                await asyncio.sleep(0.005)
        task.cancel()
        await asyncio.wait([task])
        await asyncio.wait_for(one.closed.wait(), 30)


async def test_an_address_where_nobody_listens_is_told_apart() -> None:
    async with peer() as (one, links):
        gone = one.base
    with pytest.raises(Unreachable):
        await links.send(gone, "/v1/x", "", b"{}")


@pytest.mark.parametrize("base", ["", "https://h:1", "http://h", "http://h:x", "reverse:pilot"])
def test_what_cannot_be_dialled_counts_as_unreachable(base: str) -> None:
    with pytest.raises(Unreachable):
        address(base)
