"""WebSocket frames: what goes in comes out, however the connection cuts it; what is none of ours is refused."""

from __future__ import annotations

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuworker import frames
from gpuworker.frames import BINARY, CLOSE, PING, TEXT, BadFrame, Frames

MASK = b"\x01\xfe\x80\x7f"


def frame(data: bytes, kind: int = BINARY, mask: bytes = b"") -> bytes:
    return frames.head(kind, len(data), mask) + (frames.masked(data, mask) if mask else data)


def fed(reader: Frames, pieces: list[bytes]) -> tuple[bytes, list[tuple[int, bytes]]]:
    carried, others = b"", []
    for piece in pieces:
        some, more = reader.feed(piece)
        carried += some
        others += more
    return carried, others


@given(
    parts=st.lists(st.tuples(st.sampled_from([BINARY, PING]), st.binary(max_size=300)), max_size=6),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    masks=st.booleans(),
)
def test_a_stream_survives_any_cutting(parts: list[tuple[int, bytes]], cuts: list[int], masks: bool) -> None:
    parts = [(kind, data[:125] if kind == PING else data) for kind, data in parts]
    sent = b"".join(frame(data, kind, os.urandom(4) if masks else b"") for kind, data in parts)
    edges = sorted({0, len(sent), *(cut for cut in cuts if cut < len(sent))})
    pieces = [sent[a:b] for a, b in pairwise(edges)]
    carried, others = fed(Frames(wants_masked=masks), pieces)
    assert carried == b"".join(data for kind, data in parts if kind == BINARY)
    assert others == [(PING, data) for kind, data in parts if kind == PING]


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, frames.MOST_TAKEN])
def test_every_length_has_its_head(size: int) -> None:
    data = os.urandom(size)
    assert Frames(True).feed(frame(data, mask=MASK)) == (data, [])
    assert Frames(False).feed(frame(data)) == (data, [])


def test_a_payload_is_passed_on_before_its_frame_is_whole() -> None:
    reader, sent = Frames(True), frame(b"hello world", mask=MASK)
    assert reader.feed(sent[:9]) == (b"hel", [])
    assert reader.feed(sent[9:]) == (b"lo world", [])


def test_a_frame_that_a_proxy_has_cut_is_the_same_stream() -> None:
    first = bytes((BINARY, 2)) + b"ab"  # not the last of its message
    assert Frames(False).feed(first + bytes((0x80, 1)) + b"c") == (b"abc", [])


@pytest.mark.parametrize(
    "sent",
    [
        frame(b"x"),  # a client has to mask
        frames.head(BINARY, frames.MOST_TAKEN + 1, MASK),
        b"\x82\xff" + (2**62).to_bytes(8, "big") + MASK,
        bytes((0xC2, 0x81)) + MASK + b"x",  # compressed
        bytes((0x83, 0x81)) + MASK + b"x",  # no such kind
        frames.head(PING, 126, MASK),
        bytes((PING, 0x81)) + MASK + b"x",  # half a control frame
    ],
)
def test_what_is_none_of_ours_is_refused(sent: bytes) -> None:
    with pytest.raises(BadFrame):
        Frames(wants_masked=True).feed(sent)


def test_a_server_that_masks_is_refused() -> None:
    with pytest.raises(BadFrame):
        Frames(wants_masked=False).feed(frame(b"x", mask=MASK))


def test_texts_and_the_end_are_told_apart_from_the_stream() -> None:
    sent = frame(b"take", TEXT) + frame(b"ab") + frame(b"", CLOSE)
    assert Frames(False).feed(sent) == (b"ab", [(TEXT, b"take"), (CLOSE, b"")])


def test_the_answer_to_a_key_is_the_one_of_the_standard() -> None:
    assert frames.accept_of(b"dGhlIHNhbXBsZSBub25jZQ==") == b"s3pPLMBiTxaQ9kYGzzhZRbK+xOo="
