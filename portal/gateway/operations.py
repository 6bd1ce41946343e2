"""Method and path → who serves it, and of which scopes its token needs one: every address of the data plane.

Not a framework's routing: there are a dozen and a half, and the busy ones are found by one look into a dict.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from portal.accounts.callers import Caller
from portal.errors import ApiError
from portal.http.exchange import Exchange

# What it returns is answered as JSON; None: it has answered by itself. The text is what stands for the path's name.
Handler = Callable[[Exchange, Caller, str], Awaitable[dict[str, Any] | None]]

USE = ("inference",)
LOOK = ("inference", "read")


@dataclass(frozen=True, slots=True)
class Operation:
    """A method and a path. `path` may hold one name in braces, e.g. /v1/files/{file}/content. Only a {model}'s may
    hold slashes."""

    method: str
    path: str
    scopes: tuple[str, ...]
    serve: Handler


class Operations:
    def __init__(self, operations: Iterable[Operation]) -> None:
        self._plain: dict[str, dict[str, Operation]] = {}
        self._named: dict[re.Pattern[str], dict[str, Operation]] = {}
        for operation in operations:
            if "{" in operation.path:
                self._named.setdefault(_pattern(operation.path), {})[operation.method] = operation
            else:
                self._plain.setdefault(operation.path, {})[operation.method] = operation

    def __iter__(self) -> Iterator[Operation]:
        for methods in (*self._plain.values(), *self._named.values()):
            yield from methods.values()

    def find(self, method: str, path: str) -> tuple[Operation, str]:
        """Return the operation, and what stands for its name, "" where it has none. Raises ApiError."""
        methods, name = self._plain.get(path), ""
        if methods is None:
            methods, name = self._by_name(path)
        operation = methods.get(method)
        if operation is None:
            raise ApiError("method_not_allowed", detail=" or ".join(sorted(methods)))
        return operation, name

    def _by_name(self, path: str) -> tuple[dict[str, Operation], str]:
        for pattern, methods in self._named.items():
            if found := pattern.fullmatch(path):
                return methods, found[1]
        raise ApiError("not_found")


def _pattern(path: str) -> re.Pattern[str]:
    before, _, rest = path.partition("{")
    name, _, after = rest.partition("}")
    wild = ".+" if name == "model" else "[^/]+"
    return re.compile(f"{re.escape(before)}({wild}){re.escape(after)}", re.DOTALL)
