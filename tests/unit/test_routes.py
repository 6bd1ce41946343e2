"""Method and path → a route and the name in its path, or the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from portal.accounts.callers import Caller
from portal.errors import ApiError
from portal.gateway.routes import LOOK, USE, Route, Routes
from portal.http.exchange import Exchange


async def nothing(ex: Exchange, caller: Caller, name: str) -> dict[str, Any] | None:
    return None


ROUTES = Routes(
    [
        Route("GET", "/v1/files", LOOK, nothing),
        Route("POST", "/v1/files", USE, nothing),
        Route("GET", "/v1/files/{file}", LOOK, nothing),
        Route("DELETE", "/v1/files/{file}", USE, nothing),
        Route("GET", "/v1/files/{file}/content", LOOK, nothing),
        Route("GET", "/v1/models/{model}", LOOK, nothing),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "found", "name"),
    [
        ("GET", "/v1/files", "/v1/files", ""),
        ("POST", "/v1/files", "/v1/files", ""),
        ("DELETE", "/v1/files/file-1", "/v1/files/{file}", "file-1"),
        ("GET", "/v1/files/content", "/v1/files/{file}", "content"),
        ("GET", "/v1/files/file-1/content", "/v1/files/{file}/content", "file-1"),
        ("GET", "/v1/models/org/llm-7b", "/v1/models/{model}", "org/llm-7b"),
        ("GET", "/v1/models/two\nlines", "/v1/models/{model}", "two\nlines"),
    ],
)
def test_an_address_is_found(method: str, path: str, found: str, name: str) -> None:
    route, stands_there = ROUTES.find(method, path)
    assert (route.method, route.path, stands_there) == (method, found, name)


@pytest.mark.parametrize(
    "path",
    ["", "/v1", "/v1/", "/v1/file", "/v1/files/", "/v1/files//content", "/v1/files/a/b", "/v1/files/a/content/",
     "/v1/models/", "/v1/filesx", "x/v1/files"],
)  # fmt: skip
def test_what_is_no_address_is_not_found(path: str) -> None:
    with pytest.raises(ApiError) as refused:
        ROUTES.find("GET", path)
    assert refused.value.code == "not_found"


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("PUT", "/v1/files", "GET, POST"),
        ("POST", "/v1/files/file-1", "DELETE, GET"),
        ("DELETE", "/v1/files/file-1/content", "GET"),
        ("get", "/v1/models/llm", "GET"),
    ],
)
def test_another_method_is_told_which_ones_there_are(method: str, path: str, allowed: str) -> None:
    with pytest.raises(ApiError) as refused:
        ROUTES.find(method, path)
    assert refused.value.code == "method_not_allowed"
    assert (b"allow", allowed.encode()) in refused.value.headers()
