"""Turns `args` of the catalog into checked values: an allow-list of names with types, unknown names refused."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal

from gpuworker.engines.protocol import BadArgument

Kind = Literal["int", "float", "bool", "word", "text"]

# Goes onto a command line as one word: no blanks, no leading dash that would read as another flag.
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/=-]*")


def checked(engine: str, args: Mapping[str, Any], known: Mapping[str, Kind]) -> dict[str, Any]:
    """Return `args` with every value of its declared kind.

    Raise BadArgument, which names the argument and what is known.
    """
    found = {}
    for name, value in args.items():
        kind = known.get(name)
        if kind is None:
            raise BadArgument(
                f"engine argument {name!r} is not known to the {engine} engine; known: {', '.join(sorted(known))}"
            )
        if not _fits(kind, value):
            raise BadArgument(
                f"engine argument {name}={value!r} of the {engine} engine is not a valid {kind}"
            )
        found[name] = value
    return found


def _fits(kind: Kind, value: Any) -> bool:
    if kind == "bool":
        return isinstance(value, bool)
    if kind == "int":
        return isinstance(value, int) and not isinstance(value, bool)
    if kind == "float":
        return isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "word":
        return isinstance(value, str) and _WORD.fullmatch(value) is not None
    return isinstance(value, str)
