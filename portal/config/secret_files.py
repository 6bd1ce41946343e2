"""A file that holds a secret → its text, or why it cannot be used: the one reader of such files of portal and scheduler.

Whether others may read or replace the secret is asked of the file that was opened, not of its name, which may lead to
another file a moment later. (The gpuworker, which stands alone, has its own reader: `gpuworker.settings`.)
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

MOST_BYTES = 65_536


class SecretFileError(RuntimeError):
    """The file cannot be used. The text names it, never what it holds, and says what to do."""


def read_secret(path: Path) -> str:
    """Return the text of a file that only this user may read, without blanks at its ends.

    Raise SecretFileError where there is none, where it belongs to somebody else or others may read or write it, and
    where it is empty, no text, or longer than MOST_BYTES."""
    try:
        # Not blocking: a pipe of this name has no writer.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            facts = os.fstat(file.fileno())
            _check(path, facts)
            data = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise SecretFileError(f"{path}: {error.strerror}") from None
    if len(data) > MOST_BYTES:
        raise SecretFileError(f"{path} is longer than {MOST_BYTES} bytes: it is no secret of ours")
    try:
        text = data.decode().strip()
    except UnicodeDecodeError:
        raise SecretFileError(f"{path} is no text") from None
    if not text:
        raise SecretFileError(f"{path} is empty")
    return text


def _check(path: Path, facts: os.stat_result) -> None:
    if not stat.S_ISREG(facts.st_mode):
        raise SecretFileError(f"{path} is no file")
    if facts.st_uid not in (os.geteuid(), 0):
        raise SecretFileError(
            f"{path} belongs to another user (uid {facts.st_uid}): make it this one's, with chown"
        )
    if stat.S_IMODE(facts.st_mode) & 0o077:
        raise SecretFileError(f"{path} may be read by others; make it private: chmod 600 {path}")
