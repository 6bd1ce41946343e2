"""Bodies that are larger than any page takes → 413, before Django has them.

Separate because Django's ASGI door writes every body to the disk whole, before a view or a middleware could say who
asks and how much is too much.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from portal.config import Config

App = Callable[[dict[str, Any], Any, Any], Awaitable[None]]
FORM_BYTES = 64 * 1024  # what a form may hold beside its file
UPLOADS = "/batches/"  # the one page that takes files


class _TooLarge(Exception):
    """Read no further."""


class Bounded:
    """An ASGI application around another one."""

    def __init__(self, app: App, settings: Config) -> None:
        self._app = app
        self._most = settings.max_body_bytes
        self._most_of_uploads = settings.max_file_bytes + FORM_BYTES

    async def __call__(self, scope: dict[str, Any], receive: Any, send: Any) -> None:
        most = self._most_of_uploads if scope["path"] == UPLOADS else self._most
        if _announced(scope) > most:
            await _refuse(send)
            return
        size = 0

        async def counted() -> Any:
            nonlocal size
            message = await receive()
            size += len(message.get("body", b""))
            if size > most:
                raise _TooLarge
            return message

        try:
            await self._app(scope, counted, send)
        except _TooLarge:
            await _refuse(send)


def _announced(scope: dict[str, Any]) -> int:
    text: bytes = dict(scope["headers"]).get(b"content-length", b"0")
    return int(text) if text.isdigit() else 0


async def _refuse(send: Any) -> None:
    """Answer 413. The rest of the body is not read: the connection ends with the answer."""
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b"This is larger than what is taken here.\n"})
