"""The wire's dataclasses ↔ JSON bytes, by the types of their fields. Standard library only.

Separate from the messages themselves, because it knows none of them. What reads a type is put together once
and kept: the control loop reads a report of every pilot in every tick. Bytes become text where they are UTF-8, so that
JSON inside JSON stays readable, and else {"base64": "..."}.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Callable
from typing import Any, Literal, TypeVar

T = TypeVar("T")
Reader = Callable[[Any], Any]


class WireError(ValueError):
    """A body that is no message of the wire: what is wrong, and where, by its path."""


class _Mismatch(ValueError):
    """An error of a value: what is wrong, and where, as a path like `.replicas[3].state`."""

    def __init__(self, text: str, path: str = "") -> None:
        super().__init__(f"{path}: {text}")
        self.text = text
        self.path = path

    def inside(self, step: str) -> _Mismatch:
        return _Mismatch(self.text, step + self.path)


def dumps(message: Any) -> bytes:
    """Return a wire dataclass as JSON bytes."""
    return json.dumps(dataclasses.asdict(message), separators=(",", ":"), default=_plain).encode()


def _plain(value: object) -> object:
    """Return what stands for bytes in JSON."""
    if not isinstance(value, bytes):
        raise TypeError(f"a {type(value).__name__} does not travel")
    try:
        return value.decode()
    except UnicodeDecodeError:
        return {"base64": base64.b64encode(value).decode()}


def loads(kind: type[T], data: bytes | str) -> T:
    """Read JSON bytes as a wire dataclass of `kind`. Raise WireError."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    return read(kind, raw)


def read(kind: type[T], raw: Any) -> T:
    """Read decoded JSON as a wire dataclass of `kind`. Raise WireError."""
    try:
        return typing.cast(T, _reader(typing.cast(Any, kind))(raw))
    except _Mismatch as error:
        raise WireError(f"{kind.__name__}{error}") from None


@functools.cache
def _reader(kind: Any) -> Reader:
    """Return a reader that raises _Mismatch on a value that is no `kind`.

    A kind is a dataclass, list, dict by str, Literal, `X | None`, scalar or Any. Keys that a dataclass does
    not have are ignored; a field without a default must be there.
    """
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if kind is Any:
        return lambda raw: raw
    if origin is Literal:
        return _literal(arguments)
    if origin in (typing.Union, types.UnionType):
        inner = _reader(next(a for a in arguments if a is not type(None)))
        return lambda raw: None if raw is None else inner(raw)
    if origin is list:
        return _list(_reader(arguments[0]))
    if origin is dict:
        return _dict(_reader(arguments[1]))
    if dataclasses.is_dataclass(kind):
        return _dataclass(kind)
    return _bytes if kind is bytes else _scalar(kind)


def _literal(allowed: tuple[Any, ...]) -> Reader:
    def read(raw: Any) -> Any:
        if raw not in allowed:
            raise _Mismatch(f"{raw!r} is not one of {allowed}")
        return raw

    return read


def _list(item: Reader) -> Reader:
    def read(raw: Any) -> Any:
        if not isinstance(raw, list):
            raise _Mismatch("expected a list")
        found: list[Any] = []
        try:
            for value in raw:
                found.append(item(value))
        except _Mismatch as error:
            raise error.inside(f"[{len(found)}]") from None
        return found

    return read


def _dict(value: Reader) -> Reader:
    def read(raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise _Mismatch("expected an object")
        found, key = {}, ""
        try:
            for key, inner in raw.items():
                found[str(key)] = value(inner)
        except _Mismatch as error:
            raise error.inside(f".{key}") from None
        return found

    return read


def _dataclass(kind: Any) -> Reader:
    readers = {name: _reader(hint) for name, hint in typing.get_type_hints(kind).items()}
    required = {
        f.name
        for f in dataclasses.fields(kind)
        if f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING
    }

    def read(raw: Any) -> Any:
        if not isinstance(raw, dict):
            raise _Mismatch("expected an object")
        if missing := required - raw.keys():
            raise _Mismatch(f"missing {', '.join(sorted(missing))}")
        found, name = {}, ""
        try:
            for name, field in readers.items():
                if name in raw:
                    found[name] = field(raw[name])
        except _Mismatch as error:
            raise error.inside(f".{name}") from None
        return kind(**found)

    return read


def _bytes(raw: Any) -> bytes:
    try:
        if isinstance(raw, str):
            return raw.encode("utf-8", "replace")  # JSON can escape half a surrogate pair, UTF-8 cannot
        if isinstance(raw, dict) and isinstance(raw.get("base64"), str):
            return base64.b64decode(raw["base64"], validate=True)
    except ValueError:
        raise _Mismatch("this is no base64") from None
    raise _Mismatch(f"expected bytes, got {type(raw).__name__}")


def _scalar(kind: Any) -> Reader:
    def read(raw: Any) -> Any:
        if type(raw) is kind:
            return raw
        # bool is an int in Python; on the wire it is not.
        if kind is float and type(raw) is int:
            return float(raw)
        raise _Mismatch(f"expected {kind.__name__}, got {type(raw).__name__}")

    return read
