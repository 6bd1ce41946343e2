"""An OpenAI back end that does nothing: one answer, or a stream of 64 chunks, each flushed on its own. Raw ASGI.

What is left when it is measured through a proxy is the proxy.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any

CHUNKS = 64

_USAGE = {"prompt_tokens": 8, "completion_tokens": CHUNKS, "total_tokens": 8 + CHUNKS}
_HEAD = {"id": "chatcmpl-null", "created": 1_700_000_000, "model": "null"}


def _event(**more: Any) -> bytes:
    said = {**_HEAD, "object": "chat.completion.chunk", **more}
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


def _choice(delta: dict[str, str], reason: str | None = None) -> list[dict[str, Any]]:
    return [{"index": 0, "delta": delta, "finish_reason": reason}]


WHOLE = json.dumps(
    {
        **_HEAD,
        "object": "chat.completion",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "word " * CHUNKS},
                "finish_reason": "stop",
            }
        ],
        "usage": _USAGE,
    }
).encode()
# 64 in all: the first says who speaks, the last but one what it cost (where it was asked for), the last is [DONE].
_TEXT = [
    _event(choices=_choice({"role": "assistant", "content": ""})),
    *[_event(choices=_choice({"content": "word "})) for _ in range(CHUNKS - 4)],
    _event(choices=_choice({}, "stop")),
]
_STREAM = [*_TEXT, _event(choices=_choice({"content": ""})), b"data: [DONE]\n\n"]
_STREAM_WITH_USAGE = [*_TEXT, _event(choices=[], usage=_USAGE), b"data: [DONE]\n\n"]
_JSON_HEADERS = [(b"content-type", b"application/json"), (b"content-length", str(len(WHOLE)).encode())]
_STREAM_HEADERS = [(b"content-type", b"text/event-stream; charset=utf-8")]


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    if scope["type"] != "http":
        return
    body = b""
    more = True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    if b'"stream":true' in body or b'"stream": true' in body:
        await send({"type": "http.response.start", "status": 200, "headers": _STREAM_HEADERS})
        for chunk in _STREAM_WITH_USAGE if b"include_usage" in body else _STREAM:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await asyncio.sleep(0)  # uvloop gathers what one turn of the loop writes
        await send({"type": "http.response.body", "body": b""})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": _JSON_HEADERS})
        await send({"type": "http.response.body", "body": WHOLE})
