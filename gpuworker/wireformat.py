"""Frozen dataclasses ↔ JSON bytes, read by their types and strictly.

Separate from `wire`, which says what the messages are; this knows none of them.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import types
import typing
from typing import Any, Literal, TypeVar

T = TypeVar("T")


class WireError(ValueError):
    """A body that is not what this module describes."""


def dumps(message: Any) -> bytes:
    """A wire dataclass as JSON bytes."""
    return json.dumps(dataclasses.asdict(message), separators=(",", ":")).encode()


def loads(kind: type[T], data: bytes | str) -> T:
    """JSON bytes as a wire dataclass of `kind`. Raises WireError."""
    try:
        raw = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {error}") from None
    return typing.cast(T, _read(kind, raw, kind.__name__))


def _read(kind: Any, raw: Any, where: str) -> Any:
    if kind is Any:
        return raw
    origin = typing.get_origin(kind)
    if origin is Literal:
        if raw not in typing.get_args(kind):
            raise WireError(f"{where}: {raw!r} is not one of {typing.get_args(kind)}")
        return raw
    if origin in (typing.Union, types.UnionType):
        if raw is None:
            return None
        inner = next(a for a in typing.get_args(kind) if a is not type(None))
        return _read(inner, raw, where)
    if origin is list:
        if not isinstance(raw, list):
            raise WireError(f"{where}: expected a list")
        return [_read(typing.get_args(kind)[0], item, f"{where}[{i}]") for i, item in enumerate(raw)]
    if origin is dict:
        if not isinstance(raw, dict):
            raise WireError(f"{where}: expected an object")
        return {
            str(key): _read(typing.get_args(kind)[1], value, f"{where}.{key}") for key, value in raw.items()
        }
    if dataclasses.is_dataclass(kind):
        return _read_object(kind, raw, where)
    return _read_scalar(kind, raw, where)


def _read_object(kind: Any, raw: Any, where: str) -> Any:
    if not isinstance(raw, dict):
        raise WireError(f"{where}: expected an object")
    hints, optional = _fields(kind)
    missing = hints.keys() - raw.keys() - optional
    if missing:
        raise WireError(f"{where}: missing {', '.join(sorted(missing))}")
    return kind(
        **{name: _read(hint, raw[name], f"{where}.{name}") for name, hint in hints.items() if name in raw}
    )


@functools.cache
def _fields(kind: Any) -> tuple[dict[str, Any], frozenset[str]]:
    """A dataclass' fields with their types, and which of them have defaults. Kept: evaluating types is slow."""
    optional = {f.name for f in dataclasses.fields(kind) if f.default is not dataclasses.MISSING}
    return typing.get_type_hints(kind), frozenset(optional)


def _read_scalar(kind: Any, raw: Any, where: str) -> Any:
    if kind is float and isinstance(raw, int) and not isinstance(raw, bool):
        return float(raw)
    # bool is an int in Python; on the wire it is not.
    if not isinstance(raw, kind) or (isinstance(raw, bool) and kind is not bool):
        raise WireError(f"{where}: expected {kind.__name__}, got {type(raw).__name__}")
    return raw
