"""A connection with WebSocket frames → the plain byte stream that they carry, as asyncio's protocols know one.

Both ends of a reverse link, and of a relay between gateways, are one: to what stands inside (an HTTP server's
protocol at the agent, the gateway's HTTP link at the portal) it is a transport like TCP's, with the same flow
control and the same ways to end. So HTTP, and every check, is the same code whoever dialled. It is part of the wire:
standard library only.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Callable, Iterable
from typing import Any, cast

from gpuworker.frames import (
    BINARY,
    CLOSE,
    MOST_SENT,
    PING,
    PONG,
    TEXT,
    BadFrame,
    Frames,
    head,
    masked,
)

_GOING_AWAY = (1001).to_bytes(2, "big")
_NOT_OURS = (1002).to_bytes(2, "big")


class Tunnel(asyncio.Transport, asyncio.Protocol):
    """The protocol of the real connection and the transport of `inner`. `client`: a WebSocket client, which masks;
    None: neither end masks, as between gateways. `on_text` hears what is said beside the stream; without it, texts
    are an error. `on_leaving` hears that the other end wants to close; without it, it is closed at once."""

    def __init__(
        self,
        inner: asyncio.Protocol,
        *,
        client: bool | None,
        on_text: Callable[[str], None] | None = None,
        on_lost: Callable[[], None] | None = None,
        on_leaving: Callable[[], None] | None = None,
    ) -> None:
        super().__init__()
        self.heard_at = 0.0  # monotonic
        self.lost = False
        self.why = ""  # it ended, where this end knows better than "closed"
        self._inner = inner
        self._masks = client is True
        self._frames = Frames(wants_masked=client is False)
        self._on_text = on_text
        self._on_lost = on_lost
        self._on_leaving = on_leaving
        self._real: asyncio.Transport | None = None
        self._reading = True

    # The real connection's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._real = cast(asyncio.Transport, transport)
        self.heard_at = time.monotonic()
        self._inner.connection_made(self)

    def data_received(self, data: bytes) -> None:
        self.heard_at = time.monotonic()
        try:
            carried, others = self._frames.feed(data)
        except BadFrame as error:
            self._break(str(error))
            return
        if carried:
            self._inner.data_received(carried)
        for kind, payload in others:
            self._other(kind, payload)

    def connection_lost(self, error: Exception | None) -> None:
        self.lost = True
        if self._on_lost is not None:
            self._on_lost()
        self._inner.connection_lost(error)

    def eof_received(self) -> bool:
        return False  # the other end says no more, so it has gone: half a connection is none

    def pause_writing(self) -> None:
        self._inner.pause_writing()

    def resume_writing(self) -> None:
        self._inner.resume_writing()

    def _other(self, kind: int, payload: bytes) -> None:
        if kind == PING:
            self._frame(PONG, payload)
        elif kind == CLOSE and self._on_leaving is not None:
            self._on_leaving()
        elif kind == CLOSE:
            self.close()
        elif kind == TEXT:
            if self._on_text is None:
                self._break("a text where only bytes are carried")
                return
            self._on_text(payload.decode("latin-1"))

    def _break(self, why: str) -> None:
        self.why = why
        self._frame(CLOSE, _NOT_OURS)
        self.abort()

    # What is said beside the stream

    def ping(self) -> None:
        """Ask for a sign of life: the other end answers by itself."""
        self._frame(PING, b"")

    def leave(self) -> None:
        """Ask the other end to close as soon as nothing is on its way."""
        self._frame(CLOSE, _GOING_AWAY)

    def say(self, text: str) -> None:
        """Send a text of at most 125 bytes beside the stream; the other end's `on_text` hears it."""
        self._frame(TEXT, text.encode("latin-1"))

    def _frame(self, kind: int, payload: bytes) -> None:
        if self._real is None or self._real.is_closing():
            return
        mask = os.urandom(4) if self._masks else b""
        self._real.write(head(kind, len(payload), mask) + (masked(payload, mask) if mask else payload))

    # The inner protocol's side

    def write(self, data: bytes | bytearray | memoryview) -> None:
        size = len(data)
        if self._real is None or not size:
            return
        if size > MOST_SENT:
            whole = memoryview(data).cast("B")
            for at in range(0, size, MOST_SENT):
                self.write(whole[at : at + MOST_SENT])
            return
        if self._masks:
            mask = os.urandom(4)
            self._real.write(head(BINARY, size, mask) + masked(bytes(data), mask))
        elif size > 4096:
            self._real.writelines((head(BINARY, size), data))
        else:
            self._real.write(head(BINARY, size) + data)

    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None:
        parts = list(list_of_data)
        if sum(map(len, parts)) <= MOST_SENT:
            self.write(b"".join(parts))
            return
        for part in parts:
            self.write(part)

    def close(self) -> None:
        """Close after what was written has been sent."""
        if self._real is not None and not self._real.is_closing():
            self._frame(CLOSE, _GOING_AWAY)
            self._real.close()

    def abort(self) -> None:
        if self._real is not None:
            self._real.abort()

    def is_closing(self) -> bool:
        return self._real is None or self._real.is_closing()

    def pause_reading(self) -> None:
        if self._real is not None and self._reading and not self._real.is_closing():
            self._reading = False
            self._real.pause_reading()

    def resume_reading(self) -> None:
        if self._real is not None and not self._reading and not self._real.is_closing():
            self._reading = True
            self.heard_at = time.monotonic()
            self._real.resume_reading()

    def is_reading(self) -> bool:
        return self._reading

    def silent_s(self) -> float:
        """Return for how long nothing has come of the other end, pings included; 0 while this end does not listen."""
        return time.monotonic() - self.heard_at if self._reading else 0.0

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return default if self._real is None else self._real.get_extra_info(name, default)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self._inner = cast(asyncio.Protocol, protocol)

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self._inner

    def get_write_buffer_size(self) -> int:
        return 0 if self._real is None else self._real.get_write_buffer_size()

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        if self._real is not None:
            self._real.set_write_buffer_limits(high, low)

    def can_write_eof(self) -> bool:
        return False


def watch(link: socket.socket) -> None:
    """Set keep-alive: a node that loses power sends no FIN, and a stream from it would hang for ever."""
    if link.family not in (socket.AF_INET, socket.AF_INET6):
        return
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in (("TCP_KEEPIDLE", 15), ("TCP_KEEPINTVL", 5), ("TCP_KEEPCNT", 3)):
        if hasattr(socket, option):
            link.setsockopt(socket.IPPROTO_TCP, getattr(socket, option), value)
