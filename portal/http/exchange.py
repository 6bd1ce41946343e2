"""One ASGI call → read the body within its limit, answer as JSON or as a stream, know when the client has left.

Separate from what is answered: it knows HTTP and nothing of models. Errors before the first byte have their
proper status; later ones are a `data: {"error": …}` event (DESIGN §3).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from portal.errors import ApiError
from portal.http import answers

Scope = dict[str, Any]
Headers = list[tuple[bytes, bytes]]

_WATCH_AFTER_S = 0.02
# Proxies must neither keep nor gather what is streamed.
_STREAM: Headers = [
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    (b"x-accel-buffering", b"no"),
]


class Gone(Exception):
    """The client left before its request was read."""


class Exchange:
    def __init__(self, scope: Scope, receive: Any, send: Any, request_id: str) -> None:
        self.scope = scope
        self.request_id = request_id
        self._headers: dict[bytes, bytes] = dict(reversed(scope["headers"]))
        self._receive = receive
        self._send = send
        self._id_header = (b"x-request-id", request_id.encode())
        self.streaming = False  # the status is out and events follow
        self.ended = False
        self.complete = False  # the client has been sent the last word; it may hang up now
        self.content_at: float | None = None  # UNIX seconds of the first byte of an engine's answer
        self.extra: Headers = []  # sent with the answer, whichever it will be
        self._watching: asyncio.TimerHandle | asyncio.Future[Any] | None = None
        self.kept: list[bytes] | None = None  # what is answered, where it will be asked for again

    def rename(self, request_id: str) -> None:
        """Take the id of a request that is known already: the client means that one."""
        self.request_id = request_id
        self._id_header = (b"x-request-id", request_id.encode())

    def header(self, name: bytes) -> str:
        """Return the first header of this name, "" where there is none."""
        value: bytes = self._headers.get(name, b"")
        return value.decode("latin-1")

    async def read(self, most: int) -> bytes:
        """Return the body. Raises ApiError when it is too large, Gone when the client left."""
        self._check_announced(most)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):  # as most are: in one piece
            body: bytes = message.get("body", b"")
            if len(body) > most:
                raise ApiError("body_too_large", detail=str(most))
            return body
        return b"".join([part async for part in self._parts(message, most)])

    async def parts(self, most: int) -> AsyncIterator[bytes]:
        """Yield the body as it comes. Raises what `read` raises."""
        self._check_announced(most)
        async for part in self._parts(await self._receive(), most):
            yield part

    async def _parts(self, message: dict[str, Any], most: int) -> AsyncIterator[bytes]:
        """Yield the body's parts from the first message on."""
        size = 0
        while True:
            if message["type"] == "http.disconnect":
                raise Gone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise ApiError("body_too_large", detail=str(most))
            yield part
            if not message.get("more_body"):
                return
            message = await self._receive()

    def _check_announced(self, most: int) -> None:
        try:
            announced = int(self.header(b"content-length") or 0)
        except ValueError:
            announced = 0
        if announced > most:
            raise ApiError("body_too_large", detail=str(most))

    def watch(self, left: Callable[[], None]) -> asyncio.Future[Any]:
        """Call `left` once the client is gone. After `read`. Cancel what comes back when it is over."""

        def over(done: asyncio.Future[Any]) -> None:
            if not done.cancelled() and not self.ended and not self.complete:
                left()

        watching: asyncio.Future[Any] = asyncio.ensure_future(self._receive())
        watching.add_done_callback(over)
        return watching

    def watch_soon(self, left: Callable[[], None]) -> None:
        """Watch from a moment later until `unwatch`, for an answer that takes longer than most: one that comes at
        once need not pay for the task that watches."""
        self._watching = asyncio.get_running_loop().call_later(_WATCH_AFTER_S, self._watch, left)

    def unwatch(self) -> None:
        if self._watching is not None:
            self._watching.cancel()

    def _watch(self, left: Callable[[], None]) -> None:
        self._watching = self.watch(left)

    # Answers

    async def answer(
        self, status: int, body: bytes, headers: Headers | None = None, content_type: str = answers.JSON
    ) -> None:
        """Send a whole answer, of JSON unless a type is named."""
        self.ended = True
        if self.kept is not None:
            self.kept.append(body)
        told = (self._id_header, *self.extra, *(headers or ()))
        await self._send(answers.head(status, body, told, content_type))
        await self._send({"type": "http.response.body", "body": body})

    async def answer_json(self, status: int, said: Mapping[str, Any], headers: Headers | None = None) -> None:
        """Send a whole answer of JSON."""
        await self.answer(status, answers.encoded(said), headers)

    async def answer_bytes(self, parts: AsyncIterator[bytes], length: int) -> None:
        """Send a whole answer of `length` bytes as a download."""
        headers = [
            (b"content-type", b"application/octet-stream"),
            (b"content-length", str(length).encode()),
            self._id_header,
        ]
        self.ended = True  # the status is out: nothing can be said any more but the rest
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        async for part in parts:
            await self.chunk(part)
        await self._send({"type": "http.response.body", "body": b""})

    async def begin_stream(self) -> None:
        """Send status 200 and the headers of an event stream, once."""
        if not self.streaming:
            self.streaming = True
            headers = [*_STREAM, self._id_header, *self.extra]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def chunk(self, data: bytes) -> None:
        if self.kept is not None:
            self.kept.append(data)
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def comment(self, said: dict[str, Any]) -> None:
        """Send a heartbeat: an SSE comment, which clients skip."""
        await self.begin_stream()
        beat = b": berth " + answers.encoded(said) + b"\n\n"
        await self._send({"type": "http.response.body", "body": beat, "more_body": True})

    async def end_stream(self) -> None:
        self.ended = True
        await self._send({"type": "http.response.body", "body": b""})

    async def fail(self, error: ApiError) -> None:
        """Send the error in the form that still fits; nothing when the answer has ended."""
        if self.ended:
            return
        body = error.body(self.request_id)
        if self.streaming:
            await self.chunk(b"data: " + body + b"\n\n")
            await self.end_stream()
        else:
            await self.answer(error.status, body, error.headers())
