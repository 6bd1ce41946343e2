"""A batch's file → its lines, each good or with the reason why not. Reads one line at a time; moves nothing.

Separate from the import, which decides what happens to the batch: this only judges. OpenAI's rule holds: one bad
line and nothing runs; the first `MOST_ERRORS` are named by their number.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from portal.acceptance import asked
from portal.errors import ApiError

MOST_ERRORS = 100
_CUSTOM_ID = 200
_encode = json.JSONEncoder(allow_nan=False).encode  # json.dumps would make one for each line


@dataclass(frozen=True, slots=True)
class GoodLine:
    number: int  # from 1, as an editor counts
    offset: int
    length: int
    custom_id: str
    model: str
    cost: int  # estimated tokens


class BadLine(Exception):
    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(code)
        self.code = code
        self.message = message
        self.param = param

    def told(self, number: int | None) -> dict[str, Any]:
        # PostgreSQL's JSON holds neither NUL nor half a surrogate pair; people's texts can.
        message = self.message.encode("utf-8", "replace").decode().replace("\0", "\ufffd")
        return {"line": number, "code": self.code, "message": message, "param": self.param}


@dataclass(frozen=True, slots=True)
class Rules:
    endpoint: str
    most_lines: int
    most_line_bytes: int
    refusal: Callable[[str], ApiError | None]  # a model's name → why no request for it is accepted


@dataclass(frozen=True, slots=True)
class Judgement:
    """The lines of a file, which count only when there are no `errors`."""

    lines: list[GoodLine]
    errors: list[dict[str, Any]]


def judge(path: Path, rules: Rules) -> Judgement:
    """Return the lines of the file, or what is wrong with them. Raises OSError."""
    good: list[GoodLine] = []
    errors: list[dict[str, Any]] = []
    seen: set[bytes] = set()
    for number, offset, line in _lines(path, rules.most_line_bytes):
        if not line.strip():
            continue  # editors leave them behind; they ask for nothing
        if len(good) >= rules.most_lines:
            errors.append(
                BadLine("too_many_lines", f"A batch has at most {rules.most_lines} lines.").told(None)
            )
            break
        try:
            good.append(_read(number, offset, line, rules, seen))
        except BadLine as bad:
            errors.append(bad.told(number))
            if len(errors) >= MOST_ERRORS:
                break
    if not good and not errors:
        errors.append(BadLine("empty_file", "The file holds no requests.").told(None))
    return Judgement(good, errors)


def _lines(path: Path, most: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield (number, offset, line without its end). Of a line that is too long only the beginning is kept."""
    offset = 0
    with path.open("rb", buffering=1 << 20) as file:
        number = 0
        while line := file.readline(most + 1):
            number += 1
            start, length = offset, len(line)
            while not line.endswith(b"\n") and length > most and (rest := file.readline(most)):
                length += len(rest)
                if rest.endswith(b"\n"):
                    break
            offset += length
            yield number, start, line.rstrip(b"\r\n") if length <= most + 1 else line


def _read(number: int, offset: int, line: bytes, rules: Rules, seen: set[bytes]) -> GoodLine:
    """Return the line as a request that can be queued. Raises BadLine."""
    if len(line) > rules.most_line_bytes:
        raise BadLine("line_too_long", f"The line is longer than {rules.most_line_bytes} bytes.")
    said = _object(line)
    custom_id = _custom_id(said.get("custom_id"), seen)
    if said.get("method") != "POST":
        raise BadLine("invalid_method", "'method' must be 'POST'.", "method")
    if said.get("url") != rules.endpoint:
        raise BadLine("mismatched_url", f"'url' must be the batch's endpoint, {rules.endpoint}.", "url")
    body = said.get("body")
    if not isinstance(body, dict):
        raise BadLine("invalid_body", "'body' must be an object.", "body")
    try:
        text = _encode(body).encode()
        request = asked.read(rules.endpoint, text)
    except ValueError:
        raise BadLine("invalid_body", "The body holds a number that JSON does not know.", "body") from None
    except RecursionError:
        raise BadLine("invalid_body", "The body is nested too deeply.", "body") from None
    except ApiError as error:
        where = "body" if error.param is None else f"body.{error.param}"
        raise BadLine(error.code, error.message, where) from None
    for name, is_set in (("stream", request.stream), ("background", request.background)):
        if is_set:
            raise BadLine("invalid_parameter", f"Nobody listens: '{name}' must be false.", f"body.{name}")
    if refusal := rules.refusal(request.model):
        raise BadLine(refusal.code, refusal.message, "body.model")
    return GoodLine(number, offset, len(line), custom_id, request.model, request.estimated_tokens())


def _object(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise BadLine("invalid_json_line", "The line is not UTF-8.") from None
    except (ValueError, RecursionError):
        raise BadLine("invalid_json_line", "The line is not JSON.") from None
    if not isinstance(said, dict):
        raise BadLine("invalid_json_line", "The line is not a JSON object.")
    return said


def _custom_id(value: Any, seen: set[bytes]) -> str:
    if not isinstance(value, str) or not value:
        raise BadLine("missing_custom_id", "'custom_id' must be a text.", "custom_id")
    try:
        digest = hashlib.blake2b(value.encode(), digest_size=16).digest()
    except UnicodeEncodeError:
        raise BadLine("invalid_custom_id", "'custom_id' is not Unicode.", "custom_id") from None
    if len(value) > _CUSTOM_ID or "\0" in value:
        raise BadLine("invalid_custom_id", f"'custom_id' has at most {_CUSTOM_ID} characters, none of them NUL.",
                      "custom_id")  # fmt: skip
    if digest in seen:
        raise BadLine("duplicate_custom_id", "An earlier line has the same 'custom_id'.", "custom_id")
    seen.add(digest)
    return value
