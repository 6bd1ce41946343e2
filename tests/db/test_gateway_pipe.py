"""The connection to Redis: answers in order, failures of one command alone; silence, garbage and an end are noticed."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest

from portal.admission import pipe as piping
from portal.admission.pipe import Pipe, QueueDown
from portal.admission.place import Place
from portal.admission.scripts import of_pool
from portal.redis import keys

WITHIN_S = 60.0
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@pytest.fixture
async def pipe() -> AsyncIterator[Pipe]:
    made = Pipe(os.environ["BERTH_REDIS_URL"])
    yield made
    await made.ask(("FLUSHALL",))
    await made.close()


@asynccontextmanager
async def _serving(talk: Talk) -> AsyncIterator[Pipe]:
    """Serve with a server that talks as it likes."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await talk(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    made = Pipe(f"redis://127.0.0.1:{server.sockets[0].getsockname()[1]}/0")
    try:
        yield made
    finally:
        if made._link is not None:
            made._link.close()
        server.close()


async def _asked(pipe: Pipe, *command: str | int) -> object:
    return await asyncio.wait_for(pipe.ask(command), WITHIN_S)


async def test_of_many_in_one_write_only_the_one_fails_that_is_wrong(pipe: Pipe) -> None:
    asks = [pipe.ask(("SET", f"k{i}", i)) for i in range(50)]
    wrong = pipe.ask(("INCRBY", "k7", "seven"))
    asks += [pipe.ask(("GET", f"k{i}")) for i in range(50)]
    answers = await asyncio.gather(*asks)
    assert answers == [b"OK"] * 50 + [str(i).encode() for i in range(50)]
    with pytest.raises(QueueDown, match="not an integer"):
        await wrong
    assert pipe.down_since is None, "Redis is there"


async def test_whoever_gives_up_leaves_its_answer_to_nobody(pipe: Pipe) -> None:
    given_up, other = pipe.ask(("ECHO", "first")), pipe.ask(("ECHO", "second"))
    given_up.cancel()
    assert await other == b"second"


async def test_scripts_that_redis_forgot_are_told_again(pipe: Pipe) -> None:
    await pipe.ask(("SCRIPT", "FLUSH"))
    pipe.tell(of_pool("renew", "p", 15.0, "replica", *Place("p", "told").arguments()))
    admitted, plain = (
        pipe.ask(of_pool("admit", "p", 15.0, *Place("p", "r").arguments())),
        pipe.ask(("ECHO", "beside")),
    )
    assert (await admitted, await plain) == ([], b"beside")
    assert await pipe.ask(("ZCARD", keys.SLOTS.of("p", "replica"))) == 1


async def test_what_was_told_before_the_end_is_heard(pipe: Pipe) -> None:
    other = Pipe(os.environ["BERTH_REDIS_URL"])
    other.tell(("SET", "last", "word"))
    await other.close()
    assert await pipe.ask(("GET", "last")) == b"word"


async def test_a_wrong_password_is_no_connection() -> None:
    scheme, _, rest = os.environ["BERTH_REDIS_URL"].partition("://")
    pipe = Pipe(f"{scheme}://:wrong@{rest.partition('@')[2]}")
    with pytest.raises(QueueDown):
        await _asked(pipe, "PING")
    await pipe.close()


@pytest.mark.parametrize("wrong", ["silent", "closes", "garbage", "unasked"])
async def test_one_that_does_not_answer_fails_what_waits_and_is_dialled_again(
    wrong: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(piping, "ANSWER_S", 0.2)
    dialled = 0

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal dialled
        dialled += 1
        while await reader.read(65_536):
            if dialled > 1 or wrong == "unasked":
                writer.write(b"+PONG\r\n" if dialled > 1 else b"+PONG\r\n" * 9)
            elif wrong == "closes":
                return
            elif wrong == "garbage":
                writer.write(b"HTTP/1.1 400\r\n")

    async with _serving(talk) as pipe:
        first = [pipe.ask(("PING",)), pipe.ask(("PING",))]
        said = await asyncio.wait_for(asyncio.gather(*first, return_exceptions=True), WITHIN_S)
        if wrong == "unasked":  # two were due, nine came: the next must not be told the third
            assert said == [b"PONG", b"PONG"]
        else:
            assert [type(each) for each in said] == [QueueDown, QueueDown]
        assert pipe.down_since is not None
        assert await _asked(pipe, "PING") == b"PONG"
        assert dialled == 2
        assert pipe.down_since is None, "it is there again"


async def test_nobody_there_fails_at_once_and_is_asked_again_later() -> None:
    async with _serving(lambda reader, writer: asyncio.sleep(0)) as gone:
        url = gone
    with pytest.raises(QueueDown):
        await _asked(url, "PING")
    assert url.down_since is not None
