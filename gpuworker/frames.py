"""WebSocket frames (RFC 6455) as bytes → what they carry, and back: what a byte stream over a WebSocket needs of them.

Frames are no messages here: a payload is passed on as its bytes come, in pieces of any size, so that nothing is
gathered and no frame can cost memory. Own code instead of a library's, which gathers messages and costs twice as much a
frame (decisions/0023). Standard library only: both ends import it.
"""

from __future__ import annotations

import base64
import hashlib
import os
from typing import Final

_GUID: Final = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
# What is sent in one frame at most, and the largest that is taken: a peer that announces more is not one of ours.
MOST_SENT: Final = 256 * 1024
MOST_TAKEN: Final = 2**20
MOST_CONTROL: Final = 125  # RFC 6455, 5.5

CONTINUED, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA


class BadFrame(ValueError):
    """An error in what came: it is not a WebSocket frame, or not one that this end takes."""


def accept_of(key: bytes) -> bytes:
    """Return what a server says to a client's Sec-WebSocket-Key."""
    return base64.b64encode(hashlib.sha1(key + _GUID, usedforsecurity=False).digest())


def new_key() -> bytes:
    """Return a client's Sec-WebSocket-Key: 16 random bytes in base64."""
    return base64.b64encode(os.urandom(16))


def head(kind: int, size: int, mask: bytes = b"") -> bytes:
    """Return the head of a whole frame of `size` bytes, with the mask at its end."""
    bit = 0x80 if mask else 0
    if size < 126:
        return bytes((0x80 | kind, bit | size)) + mask
    if size < 65536:
        return bytes((0x80 | kind, bit | 126)) + size.to_bytes(2, "big") + mask
    return bytes((0x80 | kind, bit | 127)) + size.to_bytes(8, "big") + mask


def masked(data: bytes, mask: bytes) -> bytes:
    """Return data XOR mask, repeated: the way in and the way out. As one long number, which costs a loop in C."""
    size = len(data)
    key = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(key, "little")).to_bytes(size, "little")


class Frames:
    """The reading end: `feed` it, take what it returns. `wants_masked`: whether the peer is a WebSocket client."""

    __slots__ = ("_control", "_inside", "_kind", "_left", "_mask", "_rest", "_wants_masked")

    def __init__(self, wants_masked: bool) -> None:
        self._wants_masked = wants_masked
        self._rest = b""  # the beginning of a head
        self._inside = False  # a payload, of which `_left` bytes are still to come
        self._left = 0
        self._kind = BINARY
        self._mask = b""
        self._control = b""  # what has come of a control frame or a text

    def feed(self, data: bytes) -> tuple[bytes, list[tuple[int, bytes]]]:
        """Return all that the binary frames carried, joined, and the (kind, payload) of the others that are whole.
        Raises BadFrame."""
        if self._rest:
            data = self._rest + data
            self._rest = b""
        at, end = 0, len(data)
        parts: list[bytes] = []
        others: list[tuple[int, bytes]] = []
        while at < end:
            if not self._inside:
                after = self._head(data, at, end)
                if after == at:
                    self._rest = data[at:]
                    break
                at = after
            piece = data[at : at + self._left]
            at += len(piece)
            self._left -= len(piece)
            self._inside = self._left > 0
            if self._mask and piece:
                piece = self._unmasked(piece)
            if self._kind == BINARY:
                parts.append(piece)
            else:
                self._control += piece
                if not self._inside:
                    others.append((self._kind, self._control))
                    self._control = b""
        return (parts[0] if len(parts) == 1 else b"".join(parts)), others

    def _unmasked(self, piece: bytes) -> bytes:
        mask = self._mask
        if self._left and (turn := len(piece) % 4):  # the payload goes on in the middle of the mask
            self._mask = mask[turn:] + mask[:turn]
        return masked(piece, mask)

    def _head(self, data: bytes, at: int, end: int) -> int:
        """Read a head; return where it ends, or `at` where it is not whole yet."""
        if end - at < 2:
            return at
        first, second = data[at], data[at + 1]
        kind, size, after = first & 0x0F, second & 0x7F, at + 2
        if bool(second & 0x80) != self._wants_masked:
            raise BadFrame("masked" if second & 0x80 else "not masked")
        if size >= 126:
            wide = 2 if size == 126 else 8
            if end < after + wide:
                return at
            size = int.from_bytes(data[after : after + wide], "big")
            after += wide
        if self._wants_masked:
            if end < after + 4:
                return at
            self._mask = data[after : after + 4]
            after += 4
        self._kind = self._checked(first, kind, size)
        self._left, self._inside = size, True
        return after

    @staticmethod
    def _checked(first: int, kind: int, size: int) -> int:
        if first & 0x70:
            raise BadFrame("an extension that was not agreed on")
        if kind in (BINARY, CONTINUED):  # a proxy may cut frames anew
            if size > MOST_TAKEN:
                raise BadFrame(f"a frame of {size} bytes")
            return BINARY
        if kind not in (TEXT, CLOSE, PING, PONG):
            raise BadFrame(f"a frame of kind {kind}")
        if size > MOST_CONTROL or not first & 0x80:
            raise BadFrame("a control frame that is too long")
        return kind
