"""Connections to ingresses, kept and used again: one HTTP/1.1 request at a time on each, its answer as it comes.

Instead of a general HTTP client, which took about a third of the event loop (decisions/0008). It knows POST with a
body of known length, and answers that say where they end. The parsing is httptools', which the server uses too. An
answer whose end was not seen is lost, never taken for a short one.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections import deque
from typing import cast
from urllib.parse import urlsplit

import httptools

from gpuworker.wire import watch

CONNECT_S = 5.0
IDLE_S = 60.0  # an ingress keeps its end open for an hour
_MOST_WAITING = 262_144  # bytes of an answer that its reader has not taken; then the sender waits


class Unreachable(OSError):
    """The error that nothing answered at the address: nobody has seen the request."""


class LinkLost(OSError):
    """The error that the connection ended, or was not HTTP, before the end of the answer."""


class Link(asyncio.Protocol):
    """One connection, and the answer that is on its way over it: `status`, `headers` (lower case), then `some`."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[bytes, bytes] = {}
        self.complete = True
        self.idle_since = 0.0
        self._keeps = False
        self._lost: LinkLost | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._paused = False
        self._waiter: asyncio.Future[None] | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._transport: asyncio.Transport | None = None

    @property
    def transport(self) -> asyncio.Transport | None:
        """Return what it speaks over; None before there is a connection."""
        return self._transport

    @property
    def usable(self) -> bool:
        """Return whether another request may be sent."""
        return self.complete and self._keeps and self._lost is None

    async def send(self, head: bytes, body: bytes) -> None:
        """Send a request and wait for its answer's status and headers. Raise LinkLost."""
        assert self._transport is not None and self.complete
        self.status, self.headers, self.complete, self._keeps = 0, {}, False, False
        self._parts.clear()  # of a refusal, which nobody reads
        self._size = 0
        self._transport.writelines((head, body))
        while not self.status:
            await self._news()

    async def some(self) -> bytes:
        """Return all of the answer's body that has come since; b"" is its end. Raise LinkLost."""
        while not self._parts:
            if self.complete:
                return b""
            await self._news()
        data = self._parts[0] if len(self._parts) == 1 else b"".join(self._parts)
        self._parts.clear()
        self._size = 0
        if self._paused and self._transport is not None:
            self._paused = False
            self._transport.resume_reading()
        return data

    async def rest(self) -> bytes:
        """Return the whole body. Raise LinkLost."""
        data = await self.some()
        while not self.complete or self._parts:
            data += await self.some()
        return data

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    async def _news(self) -> None:
        if self._lost is not None:
            raise self._lost
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter

    def _wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        watch(transport.get_extra_info("socket"))
        self._keeps = True

    def data_received(self, data: bytes) -> None:
        if self.complete:  # nobody asked
            self._lose("it spoke unasked")
            return
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._lose(type(error).__name__)
        self._wake()

    def connection_lost(self, error: Exception | None) -> None:
        self._lose("closed" if error is None else type(error).__name__)
        self._wake()

    def _lose(self, why: str) -> None:
        self._lost = self._lost or LinkLost(why)
        self.close()

    # The parser's side

    def on_message_begin(self) -> None:
        if self.complete:
            raise LinkLost("a second answer to one question")  # the parser makes it an error of its own

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        self.status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._parts.append(data)
        self._size += len(data)
        if self._size > _MOST_WAITING and not self._paused and self._transport is not None:
            self._paused = True
            self._transport.pause_reading()

    def on_message_complete(self) -> None:
        self.complete, self._keeps = True, self._parser.should_keep_alive()


class Links:
    """The connections of this process. `send`, then give the link back with `done`, however it went."""

    def __init__(self) -> None:
        self._idle: dict[str, deque[Link]] = {}

    async def send(self, base: str, path: str, headers: str, body: bytes) -> Link:
        """Send a POST and return the link on which its answer comes. `headers` are whole lines.

        Raise Unreachable, LinkLost."""
        host, port, name, prefix = address(base)
        head = request_head(prefix + path, name, headers, len(body))
        link = self._kept(base) or await self._connect(host, port)
        try:
            await link.send(head, body)
        except BaseException:
            link.close()
            raise
        return link

    def done(self, base: str, link: Link) -> None:
        """Keep the link for the next request if the answer was read to its end; else close it, which stops the engine."""
        if not link.usable:
            link.close()
            return
        link.idle_since = time.monotonic()
        idle = self._idle.setdefault(base, deque())
        idle.append(link)
        while link.idle_since - idle[0].idle_since > IDLE_S:
            idle.popleft().close()

    def close(self) -> None:
        for idle in self._idle.values():
            for link in idle:
                link.close()
        self._idle.clear()

    def _kept(self, base: str) -> Link | None:
        idle = self._idle.get(base)
        oldest = time.monotonic() - IDLE_S
        while idle:
            link = idle.pop()  # the warmest; those it leaves cold grow old and are closed
            if link.usable and link.idle_since > oldest:
                return link
            link.close()
        self._idle.pop(base, None)
        return None

    async def _connect(self, host: str, port: int) -> Link:
        self._sweep()
        try:
            async with asyncio.timeout(CONNECT_S):
                _, link = await asyncio.get_running_loop().create_connection(Link, host, port)
        except (OSError, TimeoutError) as error:
            raise Unreachable(type(error).__name__) from None
        return link

    def _sweep(self) -> None:
        """Forget what the other end has closed: of replicas that are gone, nobody would ask for it again."""
        for base, idle in list(self._idle.items()):
            alive = deque(link for link in idle if link.usable)
            if alive:
                self._idle[base] = alive
            else:
                del self._idle[base]


def request_head(path: str, host: str, headers: str, size: int) -> bytes:
    """Return the head of a POST; `headers` are whole lines."""
    head = f"POST {path} HTTP/1.1\r\nHost: {host}\r\n{headers}Content-Length: {size}\r\n\r\n"
    return head.encode("latin-1")


@functools.lru_cache(maxsize=4096)
def address(base: str) -> tuple[str, int, str, str]:
    """Return host, port, what the Host header says and prefix of http://host:port/prefix. Raise Unreachable."""
    try:
        parts = urlsplit(base)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme != "http" or not parts.hostname or not port:
        raise Unreachable("not an address that can be dialled")
    return parts.hostname, port, parts.netloc, parts.path.rstrip("/")
