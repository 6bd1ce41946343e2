"""Turns one leased row into one result: calls the engine, reads its answer, says whose fault an end was.

answer of the engine                      outcome
2xx with JSON                             done
2xx cut off by the engine ("abort")       back      it was told to end
4xx, or 2xx that is not JSON              failed    asking again would say the same
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


def give_back(row: wire.LeasedRow, code: str, crashed: bool = False) -> wire.RowResult:
    return wire.RowResult(
        request=row.request,
        attempt=row.attempt,
        outcome="back",
        status=0,
        body="",
        error_code=code,
        crashed=crashed,
        first_token_at=None,
        ended_at=time.time(),
        prompt_tokens=0,
        completion_tokens=0,
    )


async def run(row: wire.LeasedRow, replica: Replica) -> wire.RowResult:
    """Cancelling it closes the connection, which makes the engine drop the work."""
    body = without_stream(row.body)
    if body is None:
        return _failed(row, 400, "invalid_body", "The body is not a JSON object.")
    if row.api not in wire.FORWARDED_PATHS:
        return _failed(row, 404, "unknown_api", f"This worker does not serve {row.api}.")
    try:
        async with replica.session.post(
            row.api, data=body, headers={"Content-Type": "application/json"}
        ) as response:
            answer = EngineAnswer(response.status, await response.read())
    except (aiohttp.ClientError, ConnectionError, TimeoutError):
        return give_back(row, "replica_lost", crashed=await replica.lost(DYING_S) == "crash")
    if answer.status >= 500 and (lost := await replica.lost(DYING_S)):
        return give_back(row, "replica_lost", crashed=lost == "crash")
    return from_answer(row, answer)


def from_answer(row: wire.LeasedRow, answer: EngineAnswer) -> wire.RowResult:
    text = answer.body.decode(errors="replace")
    if answer.status in _GOING or (answer.status < 300 and ABORTED in answer.body.replace(b": ", b":")):
        return give_back(row, "interrupted")
    parsed = _object(text)
    if parsed is None:
        return _failed(row, answer.status, "engine_bad_answer", "The engine's answer is not a JSON object.")
    if answer.status >= 300:
        code = "engine_refused" if answer.status < 500 else "engine_error"
        return replace(_failed(row, answer.status, code, ""), body=text)
    prompt_tokens, completion_tokens = usage_of(parsed)
    return wire.RowResult(
        request=row.request,
        attempt=row.attempt,
        outcome="done",
        status=answer.status,
        body=text,
        error_code="",
        crashed=False,
        first_token_at=None,
        ended_at=time.time(),
        prompt_tokens=prompt_tokens,
        completion_tokens=completion_tokens,
    )


def _failed(row: wire.LeasedRow, status: int, code: str, message: str) -> wire.RowResult:
    error = {"message": message, "type": "server_error", "param": None, "code": code}
    body = json.dumps({"error": error})
    return replace(give_back(row, code), outcome="failed", status=status, body=body)


def without_stream(body: str) -> bytes | None:
    """The same request asking for one whole answer; None when it is not a JSON object."""
    parsed = _object(body)
    if parsed is None:
        return None
    if "stream" not in parsed and "stream_options" not in parsed:
        return body.encode()
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


def _object(text: str) -> dict[str, Any] | None:
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return parsed if isinstance(parsed, dict) else None
