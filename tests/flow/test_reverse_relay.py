"""Two gateways as processes of their own, the links of a pilot at one of them: the other borrows them, and takes over.

Between the pilot and both stands a balancer, as in life: the pilot knows one address.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from gpuworker import wire
from gpuworker.reverse import Reverse
from portal.redis import keys
from portal.transport import lender as lending_end
from portal.transport import relay as relaying
from portal.transport.link import Link
from portal.transport.relay import Relay, listening
from tests.flow.dataplane import Plane, chat, until
from tests.flow.fake_ingress import go_on_for_ever
from tests.flow.test_gateway_processes import Process, _ask, _gateways
from tests.flow.test_reverse_links import STREAM, Peer, peer, registered


@dataclass
class Balancer:
    """A balancer that passes connections on to the first of these addresses that takes them."""

    ports: list[int] = field(default_factory=list)
    url: str = ""

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            for port in self.ports:
                with contextlib.suppress(OSError):
                    back, on = await asyncio.open_connection("127.0.0.1", port)
                    await asyncio.gather(_pump(reader, on), _pump(back, writer))
                    return
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(65_536):
                writer.write(data)
                await writer.drain()
    finally:
        writer.close()


@contextlib.asynccontextmanager
async def balanced(gateways: list[Process]) -> AsyncIterator[Balancer]:
    balancer = Balancer([int(gateway.url.rpartition(":")[2]) for gateway in gateways])
    server = await asyncio.start_server(balancer.serve, "127.0.0.1", 0)
    balancer.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield balancer
    finally:
        server.close()
        await server.wait_closed()


@contextlib.asynccontextmanager
async def linked(plane: Plane, url: str) -> AsyncIterator[str]:
    """Put the fake ingress behind links that the agent's code opens there. Yield the pilot."""
    pilot = registered(plane)
    secret = wire.Secret(pilot, url, wire.derive_key(plane.settings.site_key, "portal", pilot), "")
    agent = Reverse(secret, 7, plane.ingress.handle, lambda: 8, lambda: None)
    task = asyncio.create_task(agent.run())
    try:
        await until(lambda: plane.redis.scard(keys.LINKS.of(pilot)), "a link")
        plane.route(pilot=pilot, url=wire.REVERSE + pilot, cap=8)
        yield pilot
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await agent.stop()


async def _stream(plane: Plane, gateway: Process) -> str:
    url = gateway.url + "/v1/chat/completions"
    async with gateway.client.post(url, json=chat(stream=True), headers=plane.headers()) as answer:
        return await answer.text()


async def test_a_request_at_the_gateway_without_links_is_answered_and_the_other_one_may_die(
    plane: Plane,
) -> None:
    async with _gateways(plane, 2) as (first, second), balanced([first, second]) as balancer:
        async with linked(plane, balancer.url) as pilot:
            # Whole answers, streams, large bodies, and more at once than there are links.
            for gateway in (second, first):
                assert (await _ask(plane, gateway, "a"))[0] == 200
                assert (await _stream(plane, gateway)).endswith("data: [DONE]\n\n")
            url, large = second.url + "/v1/chat/completions", "x" * 1_000_000
            async with second.client.post(url, json=chat(user=large), headers=plane.headers()) as answer:
                assert answer.status == 200
            assert plane.ingress.seen[-1].body["user"] == large
            asking = [_ask(plane, gateway, f"{n}") for n in range(12) for gateway in (first, second)]
            assert {status for status, _, _ in await asyncio.gather(*asking)} == {200}
            # A client that leaves stops the engine two processes away.
            plane.ingress.next = [go_on_for_ever]
            async with second.client.post(url, json=chat(stream=True), headers=plane.headers()) as answer:
                await answer.content.readline()
            await until(lambda: plane.ingress.running == 0, "the engine is told")
            assert plane.ingress.seen[-1].cut
            # kill -9 of whoever holds the links, one request under way: the rest goes on at the other.
            plane.ingress.gate.clear()
            held = asyncio.create_task(_ask(plane, second, "held"))
            await until(lambda: plane.ingress.running == 1, "it runs")
            await first.kill()
            plane.ingress.gate.set()
            async with asyncio.timeout(10):
                # The route is dropped when a link is lost; the next sync says it again.
                await until(lambda: not plane.redis.exists(keys.ROUTES.of("demo")), "no route")
                plane.route(pilot=pilot, url=wire.REVERSE + pilot, cap=8)
                assert (await held)[0] == 200
                assert (await _ask(plane, second, "after"))[0] == 200
    ends = plane.sql("SELECT state, count(*) FROM ledger_request GROUP BY 1 ORDER BY 1")
    assert dict(ends)["cancelled"] == 1 and set(dict(ends)) == {"cancelled", "done"}


async def test_a_portal_that_starts_again_finds_its_pilots_again(plane: Plane) -> None:
    async with _gateways(plane, 1) as (first,), balanced([first]) as balancer:
        async with linked(plane, balancer.url) as pilot:
            assert (await _ask(plane, first, "a"))[0] == 200
            first.child.terminate()
            async with asyncio.timeout(20):
                await first.child.wait()
            await until(lambda: not plane.redis.scard(keys.LINKS.of(pilot)), "it has said that it left")
            async with _gateways(plane, 1) as (again,):
                balancer.ports = [int(again.url.rpartition(":")[2])]
                await until(lambda: plane.redis.scard(keys.LINKS.of(pilot)), "links again", 15)
                assert (await _ask(plane, again, "b"))[0] == 200


# The relay by itself


class Shelf:
    """The links of one pilot, as `Reverse` keeps them."""

    def __init__(self) -> None:
        self.idle: list[Link] = []
        self.back: list[Link] = []

    def take(self, pilot: str) -> Link | None:
        return self.idle.pop() if self.idle and pilot == "p" else None

    def put(self, pilot: str, link: Link) -> None:
        self.back.append(link)


@contextlib.asynccontextmanager
async def relays(*keys: bytes, where: str = "") -> AsyncIterator[list[Relay]]:
    made = [Relay(key, where) for key in keys]
    for each in made:
        await each.start()
    try:
        yield made
    finally:
        for each in made:
            await each.stop()


@pytest.mark.parametrize("where", ["", "127.0.0.1", "127.0.0.1:20000-29999", "[::1]"])
async def test_a_relay_that_has_no_link_says_so_and_is_asked_again(where: str) -> None:
    async with relays(b"k", b"k", where=where) as (lender, borrower):
        for _ in range(3):
            assert await borrower.borrow("p", [lender.address]) is None
        assert len(borrower._kept[lender.address]) == 1 and len(lender._lenders) == 1


async def test_who_does_not_know_the_site_key_is_lent_nothing_and_trusted_with_nothing() -> None:
    shelf = Shelf()
    async with relays(b"k", b"other") as (lender, stranger):
        lender.offers(shelf.take, shelf.put)
        assert await stranger.borrow("p", [lender.address]) is None
        assert not shelf.back and stranger._shunned


@pytest.mark.parametrize(
    "said", [b"", b"\x81\x04none", b"\x00" * 300, b"HTTP/1.1 400 Bad Request\r\n\r\n"], ids=str
)
async def test_what_is_no_relay_costs_a_second_and_is_left_alone(
    said: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relaying, "ANSWER_S", 0.2)

    speaking: list[asyncio.StreamWriter] = []

    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        speaking.append(writer)
        writer.write(said)
        with contextlib.suppress(ConnectionError):
            while await reader.read(100):
                pass
        writer.close()
        speaking.remove(writer)

    server = await asyncio.start_server(speak, "127.0.0.1", 0)
    address = f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with relays(b"k") as (borrower,):
        async with asyncio.timeout(10):
            assert await borrower.borrow("p", [address, "unix:/nowhere", "tcp:127.0.0.1:1"]) is None
        assert len(borrower._shunned) == 3
    await until(lambda: not speaking, "its connection is closed")
    server.close()
    await server.wait_closed()


async def test_garbage_at_the_relay_closes_its_connection() -> None:
    async with relays(b"k", where="127.0.0.1") as (lender,):
        host, _, port = lender.address.removeprefix("tcp:").rpartition(":")
        for sent in (b"\x82\x04spam", b"\x81\x06take p", b"GET / HTTP/1.1\r\n\r\n", b"\x81\x0bhello a beef"):
            reader, writer = await asyncio.open_connection(host, int(port))
            await reader.readexactly(2 + 30)
            writer.write(sent)
            async with asyncio.timeout(30):
                with contextlib.suppress(ConnectionError):
                    while await reader.read(100):
                        pass
                writer.close()
                with contextlib.suppress(ConnectionError):
                    await writer.wait_closed()
        await until(lambda: not lender._lenders, "they are forgotten")


@pytest.mark.parametrize("where", ["10.0.0.5:x", "10.0.0.5:9-5", ":5", "10.0.0.5:70000"])
def test_an_address_that_is_none_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match="is no address like"):
        listening(where)


async def _pour(link: Peer, parts: int, sent: list[int]) -> None:
    """Send a chunked answer, as fast as whoever reads it lets us."""
    link.say(STREAM)
    for _ in range(parts):
        link.say(b"10000\r\n" + b"x" * 0x10000 + b"\r\n")
        await link.writer.drain()
        sent.append(0x10000)
    link.say(b"0\r\n\r\n")


@pytest.mark.parametrize("relayed", [False, True])
async def test_whoever_reads_slowly_stops_the_pilot_that_sends(plane: Plane, relayed: bool) -> None:
    """Through one process or two, nothing gathers what a client does not take; then the link is used again."""
    pilot, key = registered(plane), plane.settings.site_key
    holder = plane.gateway.reverse
    async with peer(plane, pilot) as far, relays(key) as (borrower,):
        await until(lambda: holder.holds(pilot), "the link")
        for _ in range(2):
            where = [holder._relay.address]
            link = await (borrower.borrow(pilot, where) if relayed else holder.take(pilot))
            assert link is not None and await borrower.borrow(pilot, where) is None, "there is one"
            asking = asyncio.create_task(link.send(b"POST /v1/x HTTP/1.1\r\n\r\n", b"{}"))
            await far.hear(b"{}")
            sent: list[int] = []
            pouring = asyncio.create_task(_pour(far, 200, sent))
            await asking
            before = -1
            while before != len(sent):  # until it does not get on
                before = len(sent)
                await asyncio.sleep(0.3)
            assert 0 < before < 200
            assert len(await link.rest()) == 200 * 0x10000
            await pouring
            if relayed:
                borrower.give_back(link)
                await until(lambda: holder._pilots[pilot].idle, "it is back")
            else:
                holder.done(pilot, link)
            far._got = b""


async def test_a_borrower_that_ends_in_the_middle_closes_the_link(plane: Plane) -> None:
    pilot = registered(plane)
    holder = plane.gateway.reverse
    async with peer(plane, pilot) as far:
        await until(lambda: holder.holds(pilot), "the link")
        async with relays(plane.settings.site_key) as (borrower,):
            link = await borrower.borrow(pilot, [holder._relay.address])
            assert link is not None
            asking = asyncio.create_task(link.send(b"POST /v1/x HTTP/1.1\r\n\r\n", b"{}"))
            await far.hear(b"{}")
            link.close()
            with contextlib.suppress(OSError):
                await asking
            await far.closed()
    await until(lambda: not holder.holds(pilot), "it is forgotten")


# Strangers


async def test_a_relay_that_answers_with_more_than_ascii_is_left_alone() -> None:
    class Mute(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            assert isinstance(transport, wire.Tunnel)
            transport.say(lending_end.HELLO + "00" * 8)

    def spoken_to() -> wire.Tunnel:
        far = wire.Tunnel(Mute(), client=None, on_text=lambda _: far.say("hello \xe9"))
        return far

    server = await asyncio.get_running_loop().create_server(spoken_to, "127.0.0.1", 0)
    async with relays(b"k", b"k") as (borrower, good):
        address = f"tcp:127.0.0.1:{server.sockets[0].getsockname()[1]}"
        assert await borrower.borrow("p", [address, good.address]) is None
        assert set(borrower._shunned) == {address}
    server.close()
    await server.wait_closed()


@pytest.mark.parametrize(
    "address",
    [
        "",
        "nonsense",
        "unix:",
        "unix:\0",
        "tcp:127.0.0.1:x",
        "tcp:127.0.0.1:99999",
        "tcp:\ufffd:1",
        "tcp::\xb2",
    ],
)
async def test_an_address_in_redis_that_is_none_costs_nobody_a_request(address: str) -> None:
    async with relays(b"k") as (borrower,):
        assert await borrower.borrow("p", [address]) is None
        assert set(borrower._shunned) == {address}


async def _closed(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        while await reader.read(100):
            pass


async def test_who_proves_nothing_is_borne_for_a_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending_end, "PROVE_S", 0.3)
    async with relays(b"k", b"k") as (lender, borrower):
        path = lender.address.removeprefix("unix:")
        strangers = [await asyncio.open_unix_connection(path) for _ in range(20)]
        assert await borrower.borrow("p", [lender.address]) is None
        async with asyncio.timeout(20):
            await asyncio.gather(*(_closed(reader) for reader, _ in strangers))
        assert [held.proved for held in lender._lenders] == [True]
        assert await borrower.borrow("p", [lender.address]) is None and not borrower._shunned, "it is kept"
        for _, writer in strangers:
            writer.close()


async def test_of_those_who_prove_nothing_the_oldest_makes_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lending_end, "PROVE_S", 600.0)
    monkeypatch.setattr(relaying, "UNPROVED", 3)
    async with relays(b"k", b"k") as (lender, borrower):
        path = lender.address.removeprefix("unix:")
        strangers = [await asyncio.open_unix_connection(path) for _ in range(10)]
        async with asyncio.timeout(20):
            await asyncio.gather(*(_closed(reader) for reader, _ in strangers[:7]))
        assert await borrower.borrow("p", [lender.address]) is None and not borrower._shunned
        assert sum(not held.proved for held in lender._lenders) <= 3
        for _, writer in strangers:
            writer.close()
