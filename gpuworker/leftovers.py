"""A pilot's folder on scratch: marked as alive while its supervisor lives, swept by the next pilot where one was killed.

Separate from the supervisor because it reaches beyond its own job. A job that gets no time to clean up leaves copies of
weights behind, which nobody else may remove. The mark is a lock, which ends with its process however that ends; it
names the node, as locks on a shared file system may not be seen from another one.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import tempfile
from pathlib import Path

PREFIX = "berth-"


def marked_folder(scratch: str) -> str:
    """Make a new folder, marked for as long as this process lives. Raise OSError."""
    folder = tempfile.mkdtemp(prefix=PREFIX, dir=scratch)
    # Locked before it has the name that others look for. Never closed on purpose.
    mark = os.open(Path(folder, "marking"), os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
    fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
    Path(folder, "marking").rename(_mark(folder))
    return folder


def sweep(scratch: str) -> list[str]:
    """Remove folders of this user and this node whose supervisor is gone, and return which."""
    swept = []
    for folder in sorted(Path(scratch).glob(f"{PREFIX}*")):
        try:
            if folder.is_symlink() or folder.lstat().st_uid != os.geteuid():
                continue
            mark = os.open(_mark(str(folder)), os.O_RDWR | os.O_NOFOLLOW)
        except OSError:
            continue  # not one of ours, from elsewhere, or just gone
        try:
            fcntl.flock(mark, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # its supervisor lives
        else:
            shutil.rmtree(folder, ignore_errors=True)
            swept.append(str(folder))
        finally:
            os.close(mark)
    return swept


def _mark(folder: str) -> Path:
    return Path(folder, f"alive-{socket.gethostname()}")
