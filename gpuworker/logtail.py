"""Turns log files into short texts for people: the end of one file, or the ends of several within a limit."""

from __future__ import annotations

import os
from pathlib import Path


def tail(path: Path, most_bytes: int) -> str:
    """Return the end of a file, from the start of a line where it had to be cut; "" when it cannot be
    read."""
    try:
        with path.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - most_bytes))
            data = file.read(most_bytes)
    except OSError:
        return ""
    if size > most_bytes:
        data = data.partition(b"\n")[2] or data
    return data.decode(errors="replace")


def sections(files: list[tuple[str, Path]], most_bytes: int) -> str:
    """Return the ends of several files under headings, each with an equal share of the limit."""
    if not files:
        return ""
    share = max(most_bytes // len(files) - 80, 200)
    text = "\n".join(f"== {title} ==\n{_last(tail(path, share), share)}" for title, path in files)
    return _last(text, most_bytes)


def _last(text: str, most_bytes: int) -> str:
    """Cut a text to its last bytes. What was no text has grown in decoding: the limit is on what is sent."""
    return text.encode()[-most_bytes:].decode(errors="ignore")
