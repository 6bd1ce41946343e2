"""A request's path and bytes → what was asked, or a 400 that names the parameter. Pure.

Checks shape, not taste: what decides whether a request may stand in line for minutes is checked before it does;
what only the engine can judge (temperatures, lengths) is left to it. The body itself travels on unchanged. Only the
readers below know what the bytes of a body mean: whatever carries a request further takes an `Asked` and its bytes.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gpuworker.wire import ENDPOINTS, JSON, RESPONSE, Endpoint
from portal.errors import ApiError
from portal.policy import estimate

_USAGE = b'"stream_options":{"include_usage":true},'


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as it was asked: of which model, at which path of the client and of the engine, in which bytes of
    which type.

    `body` is what the engine gets: streams always report their usage. `strips_usage`: the client did not
    ask for it and does not see it. `background`: /v1/responses' own way to ask for an answer later."""

    endpoint: Endpoint
    model: str
    stream: bool
    strips_usage: bool
    body: bytes
    background: bool = False
    content_type: str = JSON
    engine_path: str = ""  # "": the endpoint's own

    @property
    def api(self) -> str:
        """Return the path at the client, as the ledger knows it."""
        return self.endpoint.path

    @property
    def at_engine(self) -> str:
        """Return the path at the engine."""
        return self.engine_path or self.endpoint.engine_path

    def estimated_tokens(self) -> int:
        """Return what it will cost, before an engine has counted."""
        return estimate.tokens(self.body, self.endpoint.estimate)


Reader = Callable[[Endpoint, bytes, str], Asked]


def read(path: str, body: bytes, content_type: str = JSON) -> Asked:
    """Return what is asked at one of ENDPOINTS. Raises ApiError."""
    endpoint = ENDPOINTS[path]
    return READERS[endpoint.name](endpoint, body, _media_type(endpoint, content_type))


def _media_type(endpoint: Endpoint, said: str) -> str:
    """Return the body's type, one of the endpoint's. Raises ApiError."""
    if len(endpoint.content_types) == 1:
        return endpoint.content_types[0]
    media_type = said.partition(";")[0].strip().lower()
    if media_type not in endpoint.content_types:
        raise _wrong("Content-Type", f"must be one of {', '.join(endpoint.content_types)}")
    return media_type


def _of_json(check: Callable[[dict[str, Any]], None], endpoint: Endpoint, body: bytes, _: str) -> Asked:
    """Read OpenAI's JSON, and check by `check` what is particular to its endpoint."""
    raw = _object(body)
    model = raw.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "must be the name of a model")
    check(raw)
    for name in ("max_tokens", "max_completion_tokens", "max_output_tokens", "n"):
        _whole_number(raw, name, least=1)
    for name in ("temperature", "top_p", "presence_penalty", "frequency_penalty"):
        if not isinstance(raw.get(name), (int, float, type(None))) or isinstance(raw.get(name), bool):
            raise _wrong(name, "must be a number")
    stream = raw.get("stream")
    if stream is not None and not isinstance(stream, bool):
        raise _wrong("stream", "must be true or false")
    options = raw.get("stream_options")
    if options is not None and not isinstance(options, dict):
        raise _wrong("stream_options", "must be an object")
    if endpoint is RESPONSE and raw.get("background"):
        return _in_background(endpoint, model, raw)
    if not stream:
        return Asked(endpoint, model, False, False, body)
    if endpoint.usage != "on_request" or (options and options.get("include_usage")):
        return Asked(endpoint, model, True, False, body)
    return Asked(endpoint, model, True, True, _with_usage(raw, body))


def _object(body: bytes) -> dict[str, Any]:
    try:
        raw = json.loads(body.decode("utf-8"))
    except UnicodeDecodeError:
        raise ApiError("invalid_json", detail="it is not UTF-8") from None
    except RecursionError:
        raise ApiError("invalid_json", detail="it is nested too deeply") from None
    except ValueError as error:
        # Only the position: the decoder's own words may quote the body.
        where = (
            f"line {error.lineno}, column {error.colno}"
            if isinstance(error, json.JSONDecodeError)
            else "a number"
        )
        raise ApiError("invalid_json", detail=f"syntax error at {where}") from None
    if not isinstance(raw, dict):
        raise ApiError("invalid_json", detail="it is not an object")
    return raw


def _in_background(endpoint: Endpoint, model: str, raw: dict[str, Any]) -> Asked:
    """Return what is asked for later. The engine is not told: it would keep the answer in its own memory, which ends
    with its job."""
    if raw.get("stream"):
        raise _wrong("stream", "must be false when 'background' is true: ask for the response by its id")
    kept = {name: value for name, value in raw.items() if name not in ("background", "stream", "store")}
    return Asked(endpoint, model, False, False, json.dumps(kept).encode(), background=True)


def _with_usage(raw: dict[str, Any], body: bytes) -> bytes:
    if "stream_options" not in raw:  # the usual case: no need to write the whole body anew
        at = body.index(b"{") + 1
        return body[:at] + _USAGE + body[at:]
    options = {**(raw["stream_options"] or {}), "include_usage": True}
    return json.dumps({**raw, "stream_options": options}).encode()


def _chat(raw: dict[str, Any]) -> None:
    messages = raw.get("messages")
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "must be a list of at least one message")
    for i, message in enumerate(messages):
        if not isinstance(message, dict):
            raise _wrong(f"messages[{i}]", "must be an object")
        if not isinstance(message.get("role"), str):
            raise _wrong(f"messages[{i}].role", "must be a string, e.g. 'user'")
        if not isinstance(message.get("content"), (str, list, type(None))):
            raise _wrong(f"messages[{i}].content", "must be a string or a list of parts")


def _completion(raw: dict[str, Any]) -> None:
    prompt = raw.get("prompt")
    if not isinstance(prompt, (str, list)) or prompt == []:
        raise _wrong("prompt", "must be a string or a list")


def _embedding(raw: dict[str, Any]) -> None:
    given = raw.get("input")
    if not isinstance(given, (str, list)) or given in ("", []):
        raise _wrong("input", "must be a text or a list of texts")
    if raw.get("stream"):
        raise _wrong("stream", "does not exist for embeddings")


def _response(raw: dict[str, Any]) -> None:
    given = raw.get("input")
    if not isinstance(given, (str, list)) or given == []:
        raise _wrong("input", "must be a text or a list of items")
    if raw.get("previous_response_id") is not None:
        raise _wrong(
            "previous_response_id",
            "is not supported: nothing is kept of earlier responses, send the whole conversation in 'input'",
        )
    if raw.get("conversation") is not None:
        raise _wrong("conversation", "is not supported: send the whole conversation in 'input'")
    if raw.get("background") not in (None, True, False):
        raise _wrong("background", "must be true or false")


# By the name of the endpoint. Each line of ENDPOINTS has one.
READERS: dict[str, Reader] = {
    "chat": functools.partial(_of_json, _chat),
    "completion": functools.partial(_of_json, _completion),
    "embedding": functools.partial(_of_json, _embedding),
    "response": functools.partial(_of_json, _response),
}


def _whole_number(raw: dict[str, Any], name: str, least: int) -> None:
    value = raw.get(name)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise _wrong(name, f"must be a whole number, at least {least}")


def _wrong(param: str, what: str) -> ApiError:
    return ApiError("invalid_parameter", detail=f"'{param}' {what}.", param=param)
