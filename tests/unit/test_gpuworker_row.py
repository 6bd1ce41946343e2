"""What an engine's answer to a pulled row means, and what is sent for it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from gpuworker.endpoints import CHAT
from gpuworker.row import EngineAnswer, from_answer, give_back, usage_of, without_stream
from gpuworker.wire import LeasedRow

ROW = LeasedRow("q", 3, "r", "/v1/chat/completions", False, b"{}")
DONE = {
    "choices": [{"finish_reason": "stop", "message": {"content": "a"}}],
    "usage": {"prompt_tokens": 7, "completion_tokens": 2},
}


def answer(status: int, body: object) -> EngineAnswer:
    return EngineAnswer(status, body if isinstance(body, bytes) else json.dumps(body).encode())


def test_a_good_answer_is_done_with_its_usage() -> None:
    result = from_answer(ROW, answer(200, DONE), CHAT)
    assert (result.outcome, result.status, result.attempt) == ("done", 200, 3)
    assert (result.prompt_tokens, result.completion_tokens) == (7, 2)
    assert json.loads(result.body) == DONE


@pytest.mark.parametrize("spaces", [None, (",", ":")])
def test_an_answer_cut_off_by_an_engine_told_to_end_goes_back(spaces: tuple[str, str] | None) -> None:
    cut = {"choices": [{"finish_reason": "abort", "message": {"content": "a"}}]}
    result = from_answer(ROW, answer(200, json.dumps(cut, separators=spaces).encode()), CHAT)
    assert (result.outcome, result.body, result.crashed) == ("back", b"", False)


def test_text_that_speaks_of_an_abort_is_not_one() -> None:
    said = {"choices": [{"finish_reason": "stop", "message": {"content": '"finish_reason":"abort"'}}]}
    assert from_answer(ROW, answer(200, said), CHAT).outcome == "done"


@pytest.mark.parametrize(
    ("status", "code"), [(400, "engine_refused"), (404, "engine_refused"), (500, "engine_error")]
)
def test_the_engines_own_words_are_kept_when_it_refuses(status: int, code: str) -> None:
    body = {"error": {"message": "too long"}}
    result = from_answer(ROW, answer(status, body), CHAT)
    assert (result.outcome, result.status, result.error_code) == ("failed", status, code)
    assert json.loads(result.body) == body


@pytest.mark.parametrize("status", [502, 503, 504])
def test_an_engine_that_is_going_gives_the_row_back(status: int) -> None:
    assert from_answer(ROW, answer(status, b""), CHAT).outcome == "back"


@pytest.mark.parametrize("body", [b"\xff<garbage>", b"", b"[1]", b"null", b"[" * 100_000])
def test_what_is_no_json_object_fails(body: bytes) -> None:
    result = from_answer(ROW, answer(200, body), CHAT)
    assert (result.outcome, result.error_code) == ("failed", "engine_bad_answer")
    assert json.loads(result.body)["error"]["code"] == "engine_bad_answer"


def test_a_row_asks_for_one_whole_answer() -> None:
    body = b'{"model":"m","stream":true,"stream_options":{"include_usage":true},"n":1}'
    assert without_stream(body) == b'{"model":"m","n":1}'
    assert without_stream('{"model": "é"}'.encode()) == '{"model": "é"}'.encode()
    assert without_stream(b"[]") is None
    assert without_stream(b"{") is None


def test_an_answer_of_bytes_is_what_it_is() -> None:
    tensors = replace(CHAT, answer="bytes", usage="never")
    for body in (b"\xff\x00", b"", b'"finish_reason":"abort"'):
        result = from_answer(ROW, EngineAnswer(200, body, "application/octet-stream"), tensors)
        assert (result.outcome, result.body, result.content_type) == (
            "done",
            body,
            "application/octet-stream",
        )
        assert (result.prompt_tokens, result.completion_tokens) == (None, None)
    refused = from_answer(ROW, EngineAnswer(400, b"\xfe", "text/plain"), tensors)
    assert (refused.outcome, refused.body, refused.content_type) == ("failed", b"\xfe", "text/plain")


def test_usage_by_any_api_and_none() -> None:
    assert usage_of({"usage": {"input_tokens": 3, "output_tokens": 4}}) == (3, 4)
    assert usage_of({"usage": {"prompt_tokens": 3}}) == (3, 0)
    assert usage_of({"usage": {"prompt_tokens": "3", "completion_tokens": -1}}) == (0, 0)
    assert usage_of({"usage": None}) == (0, 0)


def test_giving_back_carries_nothing_of_the_prompt() -> None:
    result = give_back(LeasedRow("q", 1, "r", "/v1/completions", False, b"private"), "draining")
    assert (result.outcome, result.body, result.error_code) == ("back", b"", "draining")
