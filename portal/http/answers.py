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


def head(
    status: int, body: bytes, headers: Iterable[Header] = (), content_type: str = JSON
) -> dict[str, Any]:
    """Return the message that comes before a whole body: status, type, length and further headers."""
    kind = _JSON_TYPE if content_type == JSON else (b"content-type", content_type.encode("latin-1"))
    length = (b"content-length", b"%d" % len(body))
    return {"type": "http.response.start", "status": status, "headers": [kind, length, *headers]}


async def send_json(send: Any, status: int, said: Mapping[str, Any]) -> None:
    """Send a whole answer of JSON, where there is no exchange that does."""
    body = encoded(said)
    await send(head(status, body))
    await send({"type": "http.response.body", "body": body})
