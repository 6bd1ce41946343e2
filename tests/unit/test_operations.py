"""Method and path → an operation and the name in its path, or the refusal."""

from __future__ import annotations

from typing import Any

import pytest

from portal.accounts.callers import Caller
from portal.errors import ApiError
from portal.gateway.operations import LOOK, USE, Operation, Operations
from portal.http.exchange import Exchange


async def nothing(ex: Exchange, caller: Caller, name: str) -> dict[str, Any] | None:
    return None


OPERATIONS = Operations(
    [
        Operation("GET", "/v1/files", LOOK, nothing),
        Operation("POST", "/v1/files", USE, nothing),
        Operation("GET", "/v1/files/{file}", LOOK, nothing),
        Operation("DELETE", "/v1/files/{file}", USE, nothing),
        Operation("GET", "/v1/files/{file}/content", LOOK, nothing),
        Operation("GET", "/v1/models/{model}", LOOK, nothing),
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
    operation, stands_there = OPERATIONS.find(method, path)
    assert (operation.method, operation.path, stands_there) == (method, found, name)


@pytest.mark.parametrize(
    "path",
    ["", "/v1", "/v1/", "/v1/file", "/v1/files/", "/v1/files//content", "/v1/files/a/b", "/v1/files/a/content/",
     "/v1/models/", "/v1/filesx", "x/v1/files"],
)  # fmt: skip
def test_what_is_no_address_is_not_found(path: str) -> None:
    with pytest.raises(ApiError) as refused:
        OPERATIONS.find("GET", path)
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
        OPERATIONS.find(method, path)
    assert refused.value.code == "method_not_allowed"
    assert (b"allow", allowed.encode()) in refused.value.headers()
