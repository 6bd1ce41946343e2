"""A model's folder and the folders that it may lie in → its real path, or why it is refused.

Where a link leads is only known on the node: looked at when a model is registered, and again before each load.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path

MOST_FILES = 20_000


class Outside(Exception):
    """The reason why a folder lies outside its roots, in words."""


def inside(path: str, roots: Collection[str]) -> Path:
    """Return the folder without links. Raise Outside, OSError.

    It, and all that lies directly in it, is below one of `roots`; without roots it may be anywhere.
    """
    real = Path(path).resolve(strict=True)
    if not roots:
        return real
    real_roots = [Path(root).resolve() for root in roots]
    if not _below(real, real_roots):
        said = "" if str(real) == path else f" (it is {str(real)[:200]})"
        raise Outside(f"the folder{said} does not lie below {' or '.join(roots)}")
    with os.scandir(real) as entries:
        for number, entry in enumerate(entries):
            if number >= MOST_FILES:
                raise Outside(f"the folder holds more than {MOST_FILES} files")
            if entry.is_symlink() and not _below(Path(entry.path).resolve(), real_roots):
                raise Outside(f"{entry.name[:100]} is a link to something outside {' or '.join(roots)}")
    return real


def _below(path: Path, roots: Collection[Path]) -> bool:
    return any(path.is_relative_to(root) and path != root for root in roots)
