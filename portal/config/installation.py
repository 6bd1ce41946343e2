"""A file whose text is made on first use and kept: the installation's name and keys.

Separate from the settings, because it is no setting: nobody chooses it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from portal.config.secret_files import read_secret


def kept(path: Path, make: Callable[[], str]) -> str:
    """Return the text of `path`; written on first use, atomically, so that two processes starting at once agree. Raise
    SecretFileError where others may read it."""
    if not path.exists():
        _write(path, make)
    return read_secret(path)


def _write(path: Path, make: Callable[[], str]) -> None:
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
