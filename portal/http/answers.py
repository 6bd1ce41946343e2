"""What is said → an ASGI answer in one piece: the one place where the bare applications make an answer of JSON.

Separate from `exchange`, because health, readiness and what no application serves answer without one.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

Header = tuple[bytes, bytes]

JSON = "application/json"
_JSON_TYPE = (b"content-type", b"application/json")


def encoded(said: Mapping[str, Any]) -> bytes:
    """Return JSON as it is sent."""
    return json.dumps(said).encode()


def failure(message: str, code: str) -> dict[str, Any]:
    """Return an error that programs of ours are told. People's programs are told an ApiError."""
    return {"error": {"message": message, "code": code}}


async def send_whole(
    send: Any, status: int, body: bytes, headers: Iterable[Header] = (), content_type: str = JSON
) -> None:
    """Send an answer with its type and its length."""
    kind = _JSON_TYPE if content_type == JSON else (b"content-type", content_type.encode("latin-1"))
    length = (b"content-length", b"%d" % len(body))
    await send({"type": "http.response.start", "status": status, "headers": [kind, length, *headers]})
    await send({"type": "http.response.body", "body": body})


async def send_json(send: Any, status: int, said: Mapping[str, Any], headers: Iterable[Header] = ()) -> None:
    await send_whole(send, status, encoded(said), headers)
