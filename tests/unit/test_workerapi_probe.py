"""Whether the portal reaches an ingress: what answers there, what does not, and what says nothing of the agent."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator

import pytest

from gpuworker import wire
from gpuworker.addresses import plain
from gpuworker.ingress import Ingress
from gpuworker.seats import Fence
from portal.workerapi import probe

KEY = "the-key-of-this-pilot"


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LIMIT_S", 1.0)


@contextlib.asynccontextmanager
async def ingress(address: str = "127.0.0.1", key: str = KEY) -> AsyncIterator[str]:
    """Start a real ingress without replicas; return the address by which it says that it can be dialled."""
    found = Ingress(key, None, Fence(), lambda replica: None)  # type: ignore[arg-type]
    (url,) = await found.start([plain(address)], None)
    try:
        yield url
    finally:
        await found.stop()


@contextlib.asynccontextmanager
async def server(
    speak: Callable[[asyncio.StreamReader, asyncio.StreamWriter], object],
) -> AsyncIterator[str]:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await reader.readuntil(b"\r\n\r\n")
            result = speak(reader, writer)
            if asyncio.iscoroutine(result):
                await result
        finally:
            writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
    finally:
        made.close()


@contextlib.contextmanager
def _closed_port() -> Iterator[str]:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else gets it
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextlib.contextmanager
def _black_hole() -> Iterator[str]:
    """Open a listener whose queue is full: the kernel drops what comes, as a firewall does."""
    with socket.socket() as full, contextlib.ExitStack() as held:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        for _ in range(3):
            link = held.enter_context(socket.socket())
            link.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                link.connect(full.getsockname())
        yield f"http://127.0.0.1:{full.getsockname()[1]}"


async def _why(address: str) -> str:
    found = await probe.first([address], KEY)
    assert found.address == ""
    (tried,) = found.tried
    assert tried.address == address
    return tried.why


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_an_ingress_is_known_by_its_answer(address: str) -> None:
    async with ingress(address) as url:
        assert url.startswith("http://[::1]:" if ":" in address else "http://127.0.0.1:")
        assert await probe.first([url], KEY) == probe.Found(url)


async def test_an_ingress_of_another_pilot_is_not_taken_for_it() -> None:
    async with ingress(key="another-key") as url:
        assert "another server than this pilot's answered, over HTTP, with status 200" in await _why(url)


async def test_who_passes_the_question_on_is_not_taken_for_it() -> None:
    async with ingress() as url:
        port = int(url.rpartition(":")[2])

        async def relay(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port)
            their_writer.write(asked[0])
            writer.write(await their_reader.read())
            their_writer.close()

        asked: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            await relay(reader, writer)
            writer.close()

        made = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with made:
            between = f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}"
            assert "another server" in await _why(between)


async def test_the_key_is_never_sent() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.append(await reader.readuntil(b"\r\n\r\n"))
        writer.close()

    made = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with made:
        await _why(f"http://127.0.0.1:{made.sockets[0].getsockname()[1]}")
    assert heard[0].startswith(b"GET /berth/proof?nonce=")
    assert KEY.encode() not in heard[0] and wire.HEADER_KEY.encode() not in heard[0].lower()


async def test_other_servers_are_told_apart() -> None:
    async with server(lambda _, writer: writer.write(b"HTTP/1.1 404 Not Found\r\n\r\nno")) as url:
        assert await _why(url) == "another server than this pilot's answered, over HTTP, with status 404"
    async with server(lambda _, writer: writer.write(b"SSH-2.0-OpenSSH_9.2\r\n")) as url:
        assert await _why(url) == "another server than this pilot's answered, and not with HTTP"
    async with server(lambda _, writer: writer.write(b"\0" * 100_000)) as url:
        assert await _why(url) == "another server than this pilot's answered, and not with HTTP"
    async with server(lambda _, writer: None) as url:
        assert await _why(url) == "it closed the connection without an answer"


async def test_a_closed_port_a_firewall_and_a_mute_server_have_their_own_words() -> None:
    with _closed_port() as url:
        assert (await _why(url)).startswith("it refused the connection")
    with _black_hole() as url:
        assert (await _why(url)).startswith("no answer within")
    async with server(lambda reader, writer: asyncio.sleep(60)) as url:
        assert (await _why(url)).startswith("it took the connection and did not answer")


@pytest.mark.parametrize(
    "address",
    [
        "http://gpu01:1",
        "https://127.0.0.1:1",
        "http://127.0.0.1",
        "http://127.0.0.1:1/x",
        "http://[::1:1",
        "",
        "x:y",
    ],
)
async def test_what_cannot_be_dialled_is_said_so(address: str) -> None:
    assert (await _why(address)).startswith("not an")


async def test_of_several_the_first_that_works_counts_and_all_reasons_are_told() -> None:
    with _black_hole() as hole, _closed_port() as closed:
        async with ingress() as good, ingress() as also:
            began = time.monotonic()
            assert (await probe.first([good, hole], KEY)).address == good
            assert time.monotonic() - began < 0.9 * probe.LIMIT_S, (
                "one that does not answer keeps nobody waiting"
            )
            assert (await probe.first([hole, closed, also, good], KEY)).address == also
        found = await probe.first([hole, closed, hole], KEY)
        assert [tried.address for tried in found.tried] == [hole, closed]


async def test_a_portal_out_of_files_says_nothing_of_the_agent() -> None:
    async with ingress() as url:
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)
        with socket.socket() as last:
            resource.setrlimit(resource.RLIMIT_NOFILE, (last.fileno(), limit[1]))
            try:
                with pytest.raises(probe.Busy, match="Too many open files"):
                    await probe.first([url], KEY)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, limit)
        assert (await probe.first([url], KEY)).address == url


@pytest.fixture
def connecting(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Let connecting to hosts fail, each with its error number."""
    fails: dict[str, int] = {}
    connect = asyncio.open_connection

    async def open_connection(host: str, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if host in fails:
            raise OSError(fails[host], os.strerror(fails[host]))
        return await connect(host, port)

    monkeypatch.setattr(asyncio, "open_connection", open_connection)
    return fails


V6, V4 = "http://[fd00::1]:4000", "http://198.18.0.1:4000"


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT])
async def test_where_ipv6_is_switched_off_the_other_addresses_are_asked(
    connecting: dict[str, int], number: int
) -> None:
    connecting["fd00::1"] = number
    async with ingress() as url:
        assert (await probe.first([V6, url], KEY)).address == url
    with _closed_port() as closed:
        found = await probe.first([V6, closed], KEY)
    assert [one.why.partition(":")[0] for one in found.tried] == [
        "no route to it from the portal, whose host has no IPv6",
        "it refused the connection",
    ]
    assert (await probe.first([V6], KEY)).address == ""
    # Out of files or ports for the only other address: it may work in a moment.
    for passing in (errno.EMFILE, errno.EADDRNOTAVAIL):
        connecting["198.18.0.1"] = passing
        with pytest.raises(probe.Busy, match=os.strerror(passing)):
            await probe.first([V6, V4], KEY)


async def test_one_address_that_could_not_be_asked_hides_no_other(connecting: dict[str, int]) -> None:
    connecting["198.18.0.1"] = errno.EMFILE
    async with ingress() as url:
        assert (await probe.first([V4, url], KEY)).address == url
    with _closed_port() as closed:
        found = await probe.first([V4, closed], KEY)
    assert found.address == ""
    assert found.tried[0].why == "the portal could not ask: Too many open files"


async def test_a_portal_that_is_held_up_says_nothing_of_the_agent() -> None:
    async with server(lambda reader, writer: asyncio.sleep(60)) as url:
        asked = asyncio.create_task(probe.first([url], KEY))
        await asyncio.sleep(0.1)
        time.sleep(1.0 + 2 * probe.HELD_UP_S)  # the event loop stands still
        with pytest.raises(probe.Busy, match="held up"):
            await asked


async def test_an_ingress_answers_to_nonces_only() -> None:
    async with ingress() as url:
        host, port = url.removeprefix("http://").split(":")
        for nonce in ("", "x" * 32, "0" * 31, "0" * 33):
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(f"GET {wire.PROOF_PATH}?nonce={nonce} HTTP/1.0\r\n\r\n".encode())
            assert (await reader.read()).split(b" ")[1] == b"400"
            writer.close()
