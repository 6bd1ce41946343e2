"""Slurm's short form of a list of nodes ↔ their names: "gpu[01-03,07],login" names five. Pure.

Our own, because `scontrol show hostnames` is a program that a node need not have on its path; the order is Slurm's, in
which the job's script runs on the first.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

MOST = 4096  # names; a job of ours has a few
_PART = re.compile(r"\[([^\[\]]*)\]|([^\[\],]+)")


class BadHostlist(ValueError):
    """An error in a list of nodes; the text says in which part of it."""


def expand(text: str) -> list[str]:
    """Return the names in Slurm's order. Raises BadHostlist."""
    found: list[str] = []
    for word in _words(text.strip()):
        found += _names(word, MOST - len(found))
    return found


def _words(text: str) -> Iterator[str]:
    """Yield the parts between commas that stand outside brackets."""
    depth, word = 0, ""
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if depth not in (0, 1):
            raise BadHostlist(f"brackets do not match in {text!r}")
        if letter == "," and depth == 0:
            yield word
            word = ""
        else:
            word += letter
    if depth:
        raise BadHostlist(f"brackets do not match in {text!r}")
    if word:
        yield word


def _names(word: str, most: int) -> list[str]:
    """Return the names of one word, which may have several brackets: rack[1-2]node[01-04]. The last
    changes fastest."""
    names, at = [""], 0
    for part in _PART.finditer(word):
        if part.start() != at:
            break
        at = part.end()
        ends = [part[2]] if part[2] is not None else list(_numbers(part[1], word))
        if len(names) * len(ends) > most:
            raise BadHostlist(f"more than {MOST} nodes in {word!r}")
        names = [name + end for name in names for end in ends]
    if at != len(word) or not word:
        raise BadHostlist(f"{word!r} names no node")
    return names


def _numbers(ranges: str, word: str) -> Iterator[str]:
    """Yield the numbers of ranges, e.g. 01, 02, 03 and 7 of "01-03,7": leading zeros are part of a name."""
    for span in ranges.split(","):
        first, dash, last = span.partition("-")
        last = last if dash else first
        if not (first.isdigit() and last.isdigit() and int(first) <= int(last)):
            raise BadHostlist(f"{span!r} in {word!r} is no range")
        if int(last) - int(first) >= MOST:
            raise BadHostlist(f"more than {MOST} nodes in {word!r}")
        yield from (str(n).zfill(len(first)) for n in range(int(first), int(last) + 1))
