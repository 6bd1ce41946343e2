"""The usage of a stream is read and taken out again, wherever TCP cuts the stream."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import example, given
from hypothesis import strategies as st

from portal.gateway.usage import Usage, UsageTap, of_answer

HELLO = b'data: {"choices":[{"delta":{"content":"hi \\"usage\\": {\\"prompt_tokens\\": 1}, \\"choices\\":[]"}}]}\n\n'
LAST = b'data: {"id":"x","choices":[],"usage":{"prompt_tokens":3,"total_tokens":8,"completion_tokens":5}}\n\n'
DONE = b"data: [DONE]\n\n"
COMMENT = b": ping\n\n"


def _run(chunks: list[bytes], strips: bool) -> tuple[bytes, Usage]:
    tap = UsageTap(strips)
    out = b"".join(tap.feed(chunk) for chunk in chunks)
    return out + tap.end(), tap.usage


@given(st.lists(st.integers(0, 400), max_size=12), st.booleans(), st.sampled_from([b"\n\n", b"\r\n\r\n"]))
@example([], True, b"\n\n")
def test_cuts_change_nothing(cuts: list[int], strips: bool, end: bytes) -> None:
    events = [event.replace(b"\n\n", end) for event in (HELLO, COMMENT, HELLO, LAST, DONE)]
    whole = b"".join(events)
    places = [0, *sorted(cut for cut in cuts if cut < len(whole)), len(whole)]
    out, usage = _run([whole[a:b] for a, b in pairwise(places)], strips)
    assert usage == Usage(3, 5)
    assert out == (whole.replace(events[3], b"") if strips else whole)


def test_usage_that_rides_on_a_content_event_is_read_and_left_there() -> None:
    event = (
        b'data: {"choices":[{"delta":{"content":"x"}}],"usage":{"prompt_tokens":3,"completion_tokens":1}}\n\n'
    )
    assert _run([event], True) == (event, Usage(3, 1))


def test_a_stream_without_usage_or_with_nonsense_passes() -> None:
    odd = b'data: {"usage": nonsense\n\ndata: {"choices":[],"usage":null}\n\ndata: ["usage"]\n\n'
    assert _run([odd, DONE], True) == (odd + DONE, Usage())


def test_an_event_is_passed_on_as_soon_as_it_is_whole_and_not_held_for_ever() -> None:
    tap = UsageTap(True)
    assert tap.feed(HELLO) == HELLO
    assert tap.feed(HELLO + LAST[:20]) == HELLO
    assert tap.feed(b"x" * 2_000_000) != b""


def test_usage_of_a_whole_answer() -> None:
    body = b'{"choices":[{"message":{"content":"\\"usage\\""}}], "usage": {"prompt_tokens": 3, "completion_tokens" :5}}'
    assert of_answer(body) == Usage(3, 5)
    assert of_answer(b"{}") == Usage() and of_answer(b'{"usage": null}') == Usage()
