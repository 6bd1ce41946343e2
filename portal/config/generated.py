"""A file whose text is made on first use and kept: the installation's name and keys.

Separate from the settings, because it is no setting: nobody chooses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path


def kept(path: Path, make: Callable[[], str]) -> str:
    """The text of `path`; written on first use, atomically, so that two processes starting at once agree."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        draft = path.with_name(f".{path.name}.{os.getpid()}")
        draft.touch(mode=0o600)
        draft.write_text(make() + "\n")
        try:
            os.link(draft, path)  # fails if another process was first: then its value is ours too
        except FileExistsError:
            pass
        finally:
            draft.unlink()
        return path.read_text().strip()
