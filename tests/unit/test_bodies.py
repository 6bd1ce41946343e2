"""What is too large for Django is refused before Django has it, announced or not."""

from __future__ import annotations

import asyncio
import dataclasses
from typing import Any

import pytest

from portal.config import config
from portal.http.bodies import FORM_BYTES, UPLOADS, Bounded

MOST, MOST_FILE = 100, 1000


def post(path: str, parts: list[bytes], announced: int | None = None) -> tuple[int, int]:
    """Return the status and how many parts of the body were read."""
    said: list[dict[str, Any]] = []
    rest = list(parts)

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": rest.pop(0), "more_body": bool(rest)}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    async def django(scope: dict[str, Any], receive: Any, send: Any) -> None:
        while (await receive())["more_body"]:
            pass
        await send({"type": "http.response.start", "status": 200, "headers": []})

    headers = [] if announced is None else [(b"content-length", str(announced).encode())]
    settings = dataclasses.replace(config(), max_body_bytes=MOST, max_file_bytes=MOST_FILE)
    scope = {"type": "http", "path": path, "headers": headers}
    asyncio.run(Bounded(django, settings)(scope, receive, send))
    return said[0]["status"], len(parts) - len(rest)


@pytest.mark.parametrize(("path", "most"), [("/tokens/", MOST), (UPLOADS, MOST_FILE + FORM_BYTES)])
def test_the_bound_is_that_of_the_address(path: str, most: int) -> None:
    assert post(path, [b"x" * most], most) == (200, 1)
    assert post(path, [b"x" * most, b"x"], most + 1) == (413, 0), "what is announced is not even read"
    assert post(path, [b"x" * most, b"x", b"x"]) == (413, 2), "what comes unannounced is read no further"
