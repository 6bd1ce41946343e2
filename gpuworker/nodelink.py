"""The connection between the agent and the helper on another node of its job: JSON lines, after each has proved itself.

Both ends are proved, by HMAC under a key that only this job's processes know and that never travels: the helper starts
what it is told to, and compute nodes have many users, one of whom may take the agent's port once the agent is gone.
What follows is not encrypted; it holds commands and log lines, no prompts and no keys.

Each end says something every BEAT_S. One that has been silent for SILENT_S is held for gone, by both.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import secrets
from typing import Any

BEAT_S = 3.0
SILENT_S = 20.0
PROOF_S = 10.0
MOST_LINE = 2**20

Message = dict[str, Any]


class LinkLost(Exception):
    """The other end is gone, silent, or not who it should be; the text says which."""


class Link:
    """One proved end. `say` never waits; `hear` ends with LinkLost."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._beat = asyncio.create_task(self._beats(), name="node link")

    def say(self, kind: str, **what: Any) -> None:
        if not self._writer.is_closing():
            self._writer.write(_line({"kind": kind, **what}))

    async def hear(self) -> Message:
        """Return the next message that is not a beat. Raises LinkLost."""
        while True:
            said = await _read(self._reader, SILENT_S)
            if said["kind"] != "beat":
                return said

    def local_address(self) -> str:
        """Return this end's address on the network between the nodes."""
        return str(self._writer.get_extra_info("sockname")[0])

    def peer_address(self) -> str:
        return str(self._writer.get_extra_info("peername")[0])

    async def close(self) -> None:
        self._beat.cancel()
        self._writer.close()

    async def _beats(self) -> None:
        while not self._writer.is_closing():
            self.say("beat")
            await asyncio.sleep(BEAT_S)


async def prove_as_agent(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str
) -> tuple[Link, Message]:
    """Return the link and the helper's hello. Raises LinkLost."""
    mine = secrets.token_hex(16)
    writer.write(_line({"kind": "challenge", "nonce": mine}))
    said = await _read(reader, PROOF_S)
    proof = _proof(key, "helper", mine, str(said.get("nonce")), str(said.get("node")))
    if said["kind"] != "hello" or not _same(said.get("proof"), proof):
        writer.close()
        raise LinkLost("somebody connected who is no helper of this job")
    writer.write(_line({"kind": "welcome", "proof": _proof(key, "agent", mine, str(said["nonce"]), "")}))
    return Link(reader, writer), said


async def prove_as_helper(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, key: str, node: str, about: Message
) -> Link:
    """Return the link, once the agent has proved itself. `about`: the rest of the hello. Raises LinkLost."""
    said = await _read(reader, PROOF_S)
    theirs, mine = str(said.get("nonce")), secrets.token_hex(16)
    proof = _proof(key, "helper", theirs, mine, node)
    writer.write(_line({**about, "kind": "hello", "nonce": mine, "node": node, "proof": proof}))
    said = await _read(reader, PROOF_S)
    if said["kind"] != "welcome" or not _same(said.get("proof"), _proof(key, "agent", theirs, mine, "")):
        writer.close()
        raise LinkLost("what answers at the agent's address is not the agent")
    return Link(reader, writer)


def _proof(key: str, who: str, agents: str, helpers: str, node: str) -> str:
    return hmac.new(key.encode(), _bytes(f"{who}:{agents}:{helpers}:{node}"), "sha256").hexdigest()


def _same(shown: object, proof: str) -> bool:
    return hmac.compare_digest(_bytes(str(shown)), proof.encode())


def _bytes(text: str) -> bytes:
    """Encode whatever JSON may hold, half a surrogate pair included: this comes from people who have
    proved nothing yet."""
    return text.encode(errors="surrogatepass")


def _line(message: Message) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


async def _read(reader: asyncio.StreamReader, within_s: float) -> Message:
    try:
        async with asyncio.timeout(within_s):
            line = await reader.readline()
    except TimeoutError:
        raise LinkLost(f"nothing heard for {within_s:.0f} s") from None
    except (OSError, ValueError) as error:  # ValueError: a line without end
        raise LinkLost(f"the connection broke: {error}") from None
    if not line.endswith(b"\n"):
        raise LinkLost("the connection was closed")
    try:
        said = json.loads(line)
    except (ValueError, RecursionError):
        raise LinkLost("something was said that is not JSON") from None
    if not isinstance(said, dict) or not isinstance(said.get("kind"), str):
        raise LinkLost("something was said that is no message")
    return said
