"""A file as a secret is kept in: for its owner only."""

from __future__ import annotations

from pathlib import Path


def put_secret(path: Path, text: str) -> None:
    """Write the text to a file of mode 0600, which may be there already."""
    path.touch(mode=0o600)
    path.chmod(0o600)
    path.write_text(text)
