"""The connection between agent and helper: who proves what to whom, and how its end shows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from gpuworker import nodelink
from gpuworker.nodelink import Link, LinkLost, Message, prove_as_agent, prove_as_helper

KEY = "k" * 64
Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def ends(
    agent: Callable[[Streams], Awaitable[object]], helper: Callable[[Streams], Awaitable[object]]
) -> list[object]:
    """Return what both say of one connection: their answers, or what they raised."""
    accepted: asyncio.Future[Streams] = asyncio.get_running_loop().create_future()

    async def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result((reader, writer))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, limit=nodelink.MOST_LINE)
    there = await asyncio.open_connection(*server.sockets[0].getsockname()[:2], limit=nodelink.MOST_LINE)
    here = await accepted
    try:
        return list(await asyncio.gather(agent(here), helper(there), return_exceptions=True))
    finally:
        for _, writer in (here, there):
            writer.close()
        server.close()


async def test_both_prove_that_they_know_the_key_and_then_talk() -> None:
    async def agent(streams: Streams) -> Message:
        link, hello = await prove_as_agent(*streams, KEY)
        link.say("start", part="1")
        said = await link.hear()
        await link.close()
        return hello | said

    async def helper(streams: Streams) -> Message:
        link = await prove_as_helper(*streams, KEY, "gpu02", {"ids": ["0"]})
        said = await link.hear()
        link.say("ended", part=said["part"], code=0)
        with pytest.raises(LinkLost, match="closed"):
            await link.hear()
        await link.close()
        return said

    heard, told = await ends(agent, helper)
    assert isinstance(heard, dict) and (heard["node"], heard["ids"], heard["code"]) == ("gpu02", ["0"], 0)
    assert told == {"kind": "start", "part": "1"}


async def test_a_stranger_is_no_helper_and_no_agent() -> None:
    refused, _ = await ends(
        lambda streams: prove_as_agent(streams[0], streams[1], KEY),
        lambda streams: prove_as_helper(streams[0], streams[1], "x" * 64, "gpu02", {}),
    )
    assert isinstance(refused, LinkLost) and "no helper of this job" in str(refused)

    async def liar(streams: Streams) -> None:
        reader, writer = streams
        writer.write(b'{"kind":"challenge","nonce":"1"}\n')
        await reader.readline()
        writer.write(b'{"kind":"welcome","proof":"1"}\n{"kind":"start","argv":["rm"]}\n')

    _, refused = await ends(liar, lambda streams: prove_as_helper(*streams, KEY, "gpu02", {}))
    assert isinstance(refused, LinkLost) and "is not the agent" in str(refused)


@pytest.mark.parametrize("odd", ["\xe9", "\ud800"])
async def test_a_stranger_may_say_what_json_holds(odd: str) -> None:
    """What is no ASCII, or no character at all, is a wrong proof and no fault of ours."""

    async def helper(streams: Streams) -> None:
        reader, writer = streams
        await reader.readline()
        said = {"kind": "hello", "nonce": odd, "node": odd, "proof": odd}
        writer.write(json.dumps(said).encode() + b"\n")

    refused, _ = await ends(lambda streams: prove_as_agent(*streams, KEY), helper)
    assert isinstance(refused, LinkLost) and "no helper of this job" in str(refused)

    async def agent(streams: Streams) -> None:
        reader, writer = streams
        writer.write(json.dumps({"kind": "challenge", "nonce": odd}).encode() + b"\n")
        await reader.readline()
        writer.write(json.dumps({"kind": "welcome", "proof": odd}).encode() + b"\n")

    _, refused = await ends(agent, lambda streams: prove_as_helper(*streams, KEY, "gpu02", {}))
    assert isinstance(refused, LinkLost) and "is not the agent" in str(refused)


async def test_a_proof_cannot_be_sent_back() -> None:
    """What a helper proves is nothing that an agent could have said, and holds for this connection only."""

    async def mirror(streams: Streams) -> None:
        reader, writer = streams
        writer.write(b'{"kind":"challenge","nonce":"1"}\n')
        said = json.loads(await reader.readline())
        writer.write(json.dumps({"kind": "welcome", "proof": said["proof"]}).encode() + b"\n")

    _, refused = await ends(mirror, lambda streams: prove_as_helper(*streams, KEY, "gpu02", {}))
    assert isinstance(refused, LinkLost)


@pytest.mark.parametrize(
    "noise",
    [
        b"\xff\xfe\n",
        b"[]\n",
        b"[" * 200_000 + b"\n",
        b'{"no": "kind"}\n',
        b"x" * (nodelink.MOST_LINE + 10),
        b"half a",
    ],
)
async def test_noise_ends_the_connection(noise: bytes) -> None:
    async def agent(streams: Streams) -> object:
        return await prove_as_agent(*streams, KEY)

    async def helper(streams: Streams) -> None:
        streams[1].write(noise)
        await streams[1].drain()
        streams[1].close()

    refused, _ = await ends(agent, helper)
    assert isinstance(refused, LinkLost)


async def test_silence_is_noticed_by_both(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodelink, "SILENT_S", 0.2)

    noticed = {"agent": asyncio.Event(), "helper": asyncio.Event()}

    async def hear(link: Link, who: str) -> None:
        """Keep its own end open until the other has noticed, too."""
        link._beat.cancel()
        with pytest.raises(LinkLost, match="nothing heard"):
            await link.hear()
        noticed[who].set()
        await asyncio.gather(*(event.wait() for event in noticed.values()))

    async def agent(streams: Streams) -> None:
        link, _ = await prove_as_agent(*streams, KEY)
        await hear(link, "agent")

    async def helper(streams: Streams) -> None:
        await hear(await prove_as_helper(*streams, KEY, "gpu02", {}), "helper")

    assert await ends(agent, helper) == [None, None]
