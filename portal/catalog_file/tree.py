"""YAML text → plain values, and the line on which each key stands, so that what is wrong can be pointed at.

Separate from what the keys mean. Plain YAML only (no tags that make objects), and stricter than YAML itself: a key
that is written twice is an error instead of the last one winning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import yaml

MOST_BYTES = 8 * 2**20
DEEPEST = 6  # keys deeper than this have no line of their own

Path = tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wrong:
    """One thing that is wrong: where, by its keys, and what to write instead."""

    path: Path
    text: str
    line: int | None = None

    def __str__(self) -> str:
        where = ".".join(self.path)
        return f"line {self.line}: {where}: {self.text}" if self.line else f"{where}: {self.text}"


class BadFile(Exception):
    """The file is not a catalog; nothing of it was applied."""

    def __init__(self, wrongs: list[Wrong]) -> None:
        super().__init__("\n".join(map(str, wrongs)))
        self.wrongs = wrongs


@dataclass(frozen=True, slots=True)
class Tree:
    """The content of the file. `lines` has keys only, by their path."""

    values: dict[str, Any]
    lines: dict[Path, int]

    def wrong(self, path: Path, text: str) -> Wrong:
        """Return the mistake with the line of the nearest key that has one."""
        known = (self.lines[path[:end]] for end in range(len(path), 0, -1) if path[:end] in self.lines)
        return Wrong(path, text, next(known, None))


def read(text: str) -> Tree:
    """Return the content of a file's text. Raise BadFile."""
    if len(text.encode()) > MOST_BYTES:
        raise BadFile([Wrong((), f"The file is larger than {MOST_BYTES // 2**20} MiB.")])
    lines: dict[Path, int] = {}
    twice: list[Wrong] = []
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        if root is not None:
            _walk(root, (), lines, twice)
        values = yaml.safe_load(text)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else None
        raise BadFile([Wrong(("YAML",), f"{error.problem or error}.", line)]) from None
    except (yaml.YAMLError, RecursionError, ValueError) as error:
        # ValueError: a date such as 2026-02-31, or a number with more digits than Python reads.
        raise BadFile([Wrong(("YAML",), f"{type(error).__name__}: {error}"[:300])]) from None
    if twice:
        raise BadFile(twice)
    if values is None:
        values = {}
    if not isinstance(values, dict):
        raise BadFile([Wrong(("YAML",), "A catalog begins with sections such as 'profiles:'.", 1)])
    return Tree(values, lines)


def _walk(node: yaml.Node, path: Path, lines: dict[Path, int], twice: list[Wrong]) -> None:
    if not isinstance(node, yaml.MappingNode) or len(path) >= DEEPEST:
        return
    for key, value in node.value:
        if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
            continue
        here, line = (*path, str(key.value)), key.start_mark.line + 1
        if here in lines:
            twice.append(Wrong(here, f"This key is already on line {lines[here]}.", line))
            continue
        lines[here] = line
        _walk(value, here, lines, twice)
