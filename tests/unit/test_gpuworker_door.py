"""From which of its addresses a node reaches the portal: several addresses of it, dead ones, none yet."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from gpuworker import door, exits
from gpuworker.addresses import NoAddress
from gpuworker.exits import JobOver


@contextlib.asynccontextmanager
async def listening(address: str) -> AsyncIterator[int]:
    async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.close()

    server = await asyncio.start_server(serve, address, 0)
    async with server:
        yield int(server.sockets[0].getsockname()[1])


def _resolve(monkeypatch: pytest.MonkeyPatch, *where: tuple[str, int]) -> None:
    """Let the portal's name lead to these addresses."""

    async def getaddrinfo(*_: Any, **__: Any) -> Sequence[Any]:
        found = []
        for address, port in where:
            six = ":" in address
            end: Any = (address, port, 0, 0) if six else (address, port)
            found.append((socket.AF_INET6 if six else socket.AF_INET, socket.SOCK_STREAM, 6, "", end))
        return found

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo)


async def test_every_address_of_the_portal_that_answers_gives_one_of_ours(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with listening("127.0.0.1") as four, listening("::1") as six:
        _resolve(monkeypatch, ("::1", six), ("127.0.0.1", four), ("127.0.0.1", four))
        routes, _ = await door.reach("http://berth:1")
    assert [str(one) for one in routes] == ["::1", "127.0.0.1"]


async def test_a_dead_address_of_the_portal_hinders_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door, "CONNECT_S", 0.3)
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        async with listening("::1") as six:
            _resolve(monkeypatch, dead.getsockname(), ("::1", six))
            routes, why = await door.reach("http://berth:1")
        assert [str(one) for one in routes] == ["::1"]
        assert why == f"127.0.0.1 port {dead.getsockname()[1]}: Connection refused"


async def test_a_name_that_is_not_known_is_named() -> None:
    routes, why = await door.reach("http://no-such-host.invalid:1")
    assert routes == [] and why.startswith("no-such-host.invalid: ")


async def test_a_portal_that_comes_late_is_waited_for_and_then_the_words_are_those_of_the_profile(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(door, "RETRY_S", (0.01,))
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
        wake = asyncio.Event()
        finding = asyncio.create_task(
            door.find("", f"http://127.0.0.1:{port}", time.time() + 60, wake, lambda: False)
        )
        await asyncio.sleep(0.1)
        assert not finding.done()
        taken.listen()
        assert [str(one) for one in await finding] == ["127.0.0.1"]
        with pytest.raises(NoAddress, match="no interface ib7"):
            await door.find("ib7", f"http://127.0.0.1:{port}", time.time() + 60, wake, lambda: False)


async def test_who_is_told_to_end_or_has_waited_long_enough_ends() -> None:
    with socket.socket() as dead:
        dead.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{dead.getsockname()[1]}"
        for until, told, code in (
            (time.time() + 60, True, exits.DONE),
            (time.time() - 1, False, exits.SILENT),
        ):
            with pytest.raises(JobOver) as over:
                await door.find("", url, until, asyncio.Event(), lambda told=told: told)  # type: ignore[misc]
            assert over.value.code == code
