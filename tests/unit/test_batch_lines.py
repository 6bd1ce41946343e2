"""Judging a batch's file: the reason and the number of each bad line, and which lines are taken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from portal.batches.lines import MOST_ERRORS, Judgement, Rules, judge
from portal.errors import ApiError

CHAT = "/v1/chat/completions"
BODY = {"model": "demo", "messages": [{"role": "user", "content": "hi"}]}


def line(custom_id: Any = "a", **changes: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": CHAT, "body": BODY} | changes


def refusal(model: str) -> ApiError | None:
    return None if model == "demo" else ApiError("model_not_found", detail=model)


def judged(tmp_path: Path, *lines: dict[str, Any] | bytes, end: bytes = b"\n", **limits: Any) -> Judgement:
    path = tmp_path / "in"
    path.write_bytes(b"".join((x if isinstance(x, bytes) else json.dumps(x).encode()) + end for x in lines))
    return judge(path, dataclasses.replace(Rules(CHAT, 1000, 2000, refusal), **limits))


@pytest.mark.parametrize(
    ("bad", "code", "param"),
    [
        (b"{", "invalid_json_line", None),
        (b"[1]", "invalid_json_line", None),
        (b'{"custom_id": "\xff"}', "invalid_json_line", None),
        (b"[" * 5000, "line_too_long", None),
        (b"[" * 1500, "invalid_json_line", None),
        (line(None), "missing_custom_id", "custom_id"),
        (line(""), "missing_custom_id", "custom_id"),
        (line(7), "missing_custom_id", "custom_id"),
        (line("x" * 201), "invalid_custom_id", "custom_id"),
        (line("nul\0"), "invalid_custom_id", "custom_id"),
        (line("\ud800"), "invalid_custom_id", "custom_id"),
        (line("first"), "duplicate_custom_id", "custom_id"),
        (line(method="GET"), "invalid_method", "method"),
        (line(url="/v1/completions"), "mismatched_url", "url"),
        (line(url=None), "mismatched_url", "url"),
        (line(body=None), "invalid_body", "body"),
        (line(body=BODY | {"temperature": float("nan")}), "invalid_body", "body"),
        (line(body=BODY | {"model": "other"}), "model_not_found", "body.model"),
        (line(body=BODY | {"model": "\ud800\0"}), "model_not_found", "body.model"),
        (line(body=BODY | {"messages": []}), "invalid_parameter", "body.messages"),
        (line(body=BODY | {"n": 0}), "invalid_parameter", "body.n"),
        (line(body=BODY | {"stream": True}), "invalid_parameter", "body.stream"),
    ],
)
def test_a_bad_line_is_named_by_its_number(
    tmp_path: Path, bad: dict[str, Any] | bytes, code: str, param: str | None
) -> None:
    said = judged(tmp_path, line("first"), b"", bad, line("last"))
    (error,) = said.errors
    assert (error["line"], error["code"], error["param"]) == (3, code, param)
    # PostgreSQL must be able to hold it.
    assert "\0" not in error["message"] and error["message"].encode()


def test_good_lines_know_where_they_lie(tmp_path: Path) -> None:
    texts = [json.dumps(line(f"é{i}"), ensure_ascii=False).encode() for i in range(3)]
    for end in (b"\n", b"\r\n", b"\n\n"):
        said = judged(tmp_path, *texts, end=end)
        whole = (tmp_path / "in").read_bytes()
        assert [whole[at.offset : at.offset + at.length] for at in said.lines] == texts
        assert [at.custom_id for at in said.lines] == ["é0", "é1", "é2"]
    assert [at.number for at in said.lines] == [1, 3, 5]


def test_the_last_line_needs_no_end(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(json.dumps(line()).encode())
    said = judge(tmp_path / "in", Rules(CHAT, 10, 2000, refusal))
    assert len(said.lines) == 1 and not said.errors


def test_a_line_as_long_as_allowed_is_taken(tmp_path: Path) -> None:
    text = json.dumps(line()).encode()
    assert not judged(tmp_path, text, line("b"), most_line_bytes=len(text)).errors
    assert judged(tmp_path, line("b"), text + b" ", most_line_bytes=len(text)).errors[0]["line"] == 2
    # What follows a line that is too long is read as lines of its own.
    said = judged(tmp_path, b"x" * 10_000, line("b", method="GET"))
    assert [error["line"] for error in said.errors] == [1, 2]


@pytest.mark.parametrize("content", [(), (b"", b"  ")])
def test_a_file_without_requests_is_an_error(tmp_path: Path, content: tuple[bytes, ...]) -> None:
    assert [error["code"] for error in judged(tmp_path, *content).errors] == ["empty_file"]


def test_too_many_lines_and_too_many_errors(tmp_path: Path) -> None:
    said = judged(tmp_path, *(line(str(i)) for i in range(4)), most_lines=3)
    assert [error["code"] for error in said.errors] == ["too_many_lines"]
    assert not judged(tmp_path, *(line(str(i)) for i in range(3)), most_lines=3).errors
    assert len(judged(tmp_path, *[b"x"] * 150).errors) == MOST_ERRORS
