"""Turns one leased row into one result: calls the engine, reads its answer, says whose fault an end was.

answer of the engine                      outcome
2xx of the kind that the endpoint has     done
2xx cut off by the engine ("abort")       back      it was told to end
4xx, or 2xx of another kind               failed    asking again would say the same
502, 503, 504                             back      the engine is going or overloaded
other 5xx, the engine lives               failed    as a held client would see it
5xx or a broken connection, engine dies   back, `crashed` when it died of itself
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from typing import Any

import aiohttp

from gpuworker import wire
from gpuworker.endpoints import ENDPOINTS, ENGINE_PATHS, JSON, Endpoint
from gpuworker.replica import Replica

# An engine that answers 5xx because it is dying is gone within a second or two.
DYING_S = 2.0
# In JSON as vLLM writes it; inside a text the quotes would be escaped.
ABORTED = b'"finish_reason":"abort"'
_GOING = frozenset({502, 503, 504})


@dataclass(frozen=True, slots=True)
class EngineAnswer:
    status: int
    body: bytes
    content_type: str = JSON


def give_back(row: wire.LeasedRow, code: str, crashed: bool = False) -> wire.RowResult:
    return wire.RowResult(
        request=row.request,
        attempt=row.attempt,
        outcome="back",
        status=0,
        body=b"",
        error_code=code,
        crashed=crashed,
        first_token_at=None,
        ended_at=time.time(),
        prompt_tokens=0,
        completion_tokens=0,
    )


async def run(row: wire.LeasedRow, replica: Replica) -> wire.RowResult:
    """Return the row's result. Cancelling it closes the connection, which makes the engine drop the work."""
    endpoint = ENDPOINTS.get(row.api)
    path = row.engine_path or (endpoint.engine_path if endpoint is not None else row.api)
    if endpoint is None or path not in ENGINE_PATHS:
        return _failed(row, 404, "unknown_api", f"This worker does not serve {row.api}.")
    body = without_stream(row.body) if row.content_type == JSON else row.body
    if body is None:
        return _failed(row, 400, "invalid_body", "The body is not a JSON object.")
    try:
        async with replica.session.post(
            path, data=body, headers={"Content-Type": row.content_type}
        ) as response:
            said = response.headers.get("Content-Type", "")
            answer = EngineAnswer(response.status, await response.read(), said)
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return give_back(row, "replica_lost", crashed=await replica.lost(DYING_S) == "crash")
    if answer.status >= 500 and (lost := await replica.lost(DYING_S)):
        return give_back(row, "replica_lost", crashed=lost == "crash")
    return from_answer(row, answer, endpoint)


def from_answer(row: wire.LeasedRow, answer: EngineAnswer, endpoint: Endpoint) -> wire.RowResult:
    """Return the result that an engine's answer comes to, by the kind of answer that the endpoint has."""
    if answer.status in _GOING:
        return give_back(row, "interrupted")
    if endpoint.answer == "bytes":
        if answer.status >= 300:
            return replace(_refused(row, answer, answer.body), content_type=answer.content_type)
        return _done(row, answer, answer.body, (None, None), answer.content_type)
    if answer.status < 300 and ABORTED in answer.body.replace(b": ", b":"):
        return give_back(row, "interrupted")
    text = answer.body.decode(errors="replace")
    parsed = _object(text)
    if parsed is None:
        return _failed(row, answer.status, "engine_bad_answer", "The engine's answer is not a JSON object.")
    if answer.status >= 300:
        return _refused(row, answer, text.encode())
    return _done(row, answer, text.encode(), usage_of(parsed), JSON)


def _done(
    row: wire.LeasedRow,
    answer: EngineAnswer,
    body: bytes,
    usage: tuple[int | None, int | None],
    content_type: str,
) -> wire.RowResult:
    return wire.RowResult(
        request=row.request,
        attempt=row.attempt,
        outcome="done",
        status=answer.status,
        body=body,
        error_code="",
        crashed=False,
        first_token_at=None,
        ended_at=time.time(),
        prompt_tokens=usage[0],
        completion_tokens=usage[1],
        content_type=content_type,
    )


def _refused(row: wire.LeasedRow, answer: EngineAnswer, body: bytes) -> wire.RowResult:
    code = "engine_refused" if answer.status < 500 else "engine_error"
    return replace(_failed(row, answer.status, code, ""), body=body)


def _failed(row: wire.LeasedRow, status: int, code: str, message: str) -> wire.RowResult:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    body = json.dumps({"error": error}).encode()
    return replace(give_back(row, code), outcome="failed", status=status, body=body)


def without_stream(body: bytes) -> bytes | None:
    """Return the same request asking for one whole answer; None when it is not a JSON object."""
    parsed = _object(body)
    if parsed is None:
        return None
    if "stream" not in parsed and "stream_options" not in parsed:
        return body
    kept = {name: value for name, value in parsed.items() if name not in ("stream", "stream_options")}
    return json.dumps(kept, separators=(",", ":")).encode()


def usage_of(answer: dict[str, Any]) -> tuple[int, int]:
    """Prompt and completion tokens as the engine counted them; /v1/responses has other names for them."""
    usage = answer.get("usage")
    if not isinstance(usage, dict):
        return 0, 0
    prompt = usage.get("prompt_tokens", usage.get("input_tokens", 0))
    completion = usage.get("completion_tokens", usage.get("output_tokens", 0))
    return _count(prompt), _count(completion)


def _count(value: Any) -> int:
    return value if isinstance(value, int) and value >= 0 else 0


def _object(text: str | bytes) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
