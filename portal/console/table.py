"""Rows of words → a table for a terminal, whose last column takes what is left of the line and wraps. Pure."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

GAP = "  "
_LEAST = 30


def table(head: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> str:
    """Return the table as text. `width`: characters of a line."""
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head) - 1)]
    indent = sum(widths) + len(GAP) * len(widths)
    lines = []
    for row in (head, *rows):
        start = "".join(f"{cell:<{size}}{GAP}" for cell, size in zip(row, widths, strict=False))
        last = [
            part
            for line in row[-1].splitlines() or [""]
            for part in textwrap.wrap(line, max(_LEAST, width - indent)) or [""]
        ]
        lines.append((start + last[0]).rstrip())
        lines += [" " * indent + more for more in last[1:]]
    return "\n".join(lines)
