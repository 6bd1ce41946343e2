"""The addresses that an agent offers → the first at which this process reached its ingress, or why none was.

A pilot whose ingress nobody can reach would hold GPUs and answer nothing, so it is asked once before it is registered.
What is asked proves that the ingress answers and not whoever else has that port (`wire.ingress_proof`). Failures of the
portal's own side raise `Busy`: they say nothing of the agent. One process on one host is asked; gateways on other hosts
may have another way to the nodes.
"""

from __future__ import annotations

import asyncio
import errno
import hmac
import ipaddress
import os
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from gpuworker import wire

LIMIT_S = 4.0
MOST = 8
# Later than its time-out by this much, this process was held up itself.
HELD_UP_S = 0.5
_MOST_BYTES = 4096
_REFUSED = "it refused the connection: nothing listens there, or a firewall rejects it"
_SILENT = f"no answer within {LIMIT_S:.0f} s: a firewall drops it, or nothing has this address"
_MUTE = f"it took the connection and did not answer within {LIMIT_S:.0f} s"
_WORDS = {
    errno.ECONNREFUSED: _REFUSED,
    errno.ETIMEDOUT: _SILENT,
    errno.EHOSTUNREACH: "no route to it from the portal",
    errno.ENETUNREACH: "no route to it from the portal",
    errno.EHOSTDOWN: "no route to it from the portal",
    errno.EACCES: "a firewall of the portal's host forbids it",
    errno.EPERM: "a firewall of the portal's host forbids it",
    errno.ECONNRESET: "it closed the connection without an answer",
    errno.EPIPE: "it closed the connection without an answer",
}

# The portal's own host has no such addresses, as where IPv6 is switched off; of IPv4, EADDRNOTAVAIL means that there is
# no free port, which is no more than being busy.
_NOT_HERE = {(6, errno.EADDRNOTAVAIL), (6, errno.EAFNOSUPPORT), (4, errno.EAFNOSUPPORT)}


class Busy(Exception):
    """An error where this process could not ask: out of files, ports or time. The text says which."""


class _Failed(Exception):
    """The reason why one address was not reached."""


class _NotHere(_Failed):
    """The portal's host has no addresses of this version: true, and nothing that the other end could mend."""


@dataclass(frozen=True, slots=True)
class Found:
    """The result of a probe. `address` is "" where none was reached; then `tried` says why, in the order
    of the offer."""

    address: str
    tried: tuple[wire.Tried, ...] = ()


async def first(addresses: Sequence[str], ingress_key: str) -> Found:
    """Return the first address that works; all are asked at once. Raises Busy where none did, one could not be asked, and
    the far end is not to blame for any other: then the next question may well be answered."""
    some = list(dict.fromkeys(addresses))[:MOST]
    asked = [asyncio.create_task(_ask(address, ingress_key)) for address in some]
    try:
        tried: list[wire.Tried] = []
        busy: Busy | None = None
        counts = False
        for address, task in zip(some, asked, strict=True):
            try:
                await task
                return Found(address)
            except _Failed as error:
                tried.append(wire.Tried(address, str(error)))
                counts = counts or not isinstance(error, _NotHere)
            except Busy as error:
                tried.append(wire.Tried(address, f"the portal could not ask: {error}"))
                busy = busy or error
        if busy is not None and not counts:
            raise busy
        return Found("", tuple(tried))
    finally:
        for task in asked:
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)


async def _ask(address: str, ingress_key: str) -> None:
    """Ask one address for its proof. Raise _Failed, Busy."""
    host, port, name = _dialled(address)
    nonce = secrets.token_hex(16)
    began = time.monotonic()
    connected = False
    try:
        async with asyncio.timeout(LIMIT_S):
            reader, writer = await asyncio.open_connection(host, port)
            connected = True
            try:
                question = f"GET {wire.PROOF_PATH}?nonce={nonce} HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n"
                writer.write(question.encode())
                answer = await _answer(reader)
            finally:
                writer.transport.abort()
    except TimeoutError:
        if time.monotonic() - began > LIMIT_S + HELD_UP_S:
            raise Busy("this process was held up while it waited for an ingress") from None
        raise _Failed(_MUTE if connected else _SILENT) from None
    except OSError as error:
        if (6 if ":" in host else 4, error.errno) in _NOT_HERE:
            raise _NotHere(
                f"no route to it from the portal, whose host has no IPv{6 if ':' in host else 4}"
            ) from None
        if error.errno not in _WORDS:
            raise Busy(os.strerror(error.errno) if error.errno else str(error)) from None
        raise _Failed(_WORDS[error.errno]) from None
    _judge(answer, wire.ingress_proof(ingress_key, nonce, f"http://{name}"))


def _judge(answer: bytes, expected: str) -> None:
    """Raise _Failed unless the answer is the proof."""
    head, _, body = answer.partition(b"\r\n\r\n")
    if not answer:
        raise _Failed(_WORDS[errno.ECONNRESET])
    if hmac.compare_digest(body.strip(), expected.encode()):
        return
    status = head.split(b"\r\n")[0].split(b" ")[1:2] if head.startswith(b"HTTP/") else []
    how = (
        f"over HTTP, with status {status[0].decode('ascii', 'replace')[:3]}"
        if status
        else "and not with HTTP"
    )
    raise _Failed(f"another server than this pilot's answered, {how}")


async def _answer(reader: asyncio.StreamReader) -> bytes:
    """Read everything until the other end closes, bounded."""
    data = b""
    while len(data) < _MOST_BYTES and (part := await reader.read(_MOST_BYTES)):
        data += part
    return data


def _dialled(address: str) -> tuple[str, int, str]:
    """Return host, port, and both as the ingress spells them. Raises _Failed."""
    try:
        parts = urlsplit(address)
        found = ipaddress.ip_address(parts.hostname or "")
        port = parts.port
    except ValueError:
        raise _Failed("not an IP address with a port") from None
    if parts.scheme != "http" or not port or parts.path.strip("/"):
        raise _Failed("not an address that can be dialled")
    host = f"[{found}]" if found.version == 6 else str(found)
    return str(found), port, f"{host}:{port}"
