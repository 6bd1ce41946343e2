"""What somebody hands in → a file that is complete on disk, the rows of a file and of a batch. The one set of rules.

Separate from the doors through which it comes, the data plane's /v1/files and /v1/batches and the page in the browser,
so that they ask for the same and refuse in the same words.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from gpuworker.wire import ENDPOINTS as SERVED
from portal.batches.contents import Contents
from portal.batches.queries import Owner
from portal.batches.values import NewBatch, NewFile
from portal.errors import ApiError

ENDPOINTS = frozenset(path for path, endpoint in SERVED.items() if endpoint.batch)
WINDOWS = {"24h": timedelta(hours=24), "7d": timedelta(days=7), "30d": timedelta(days=30)}
KEPT_FOR = "expires_after[seconds]"  # of the form that uploads a file
_MOST_NAME = 255
_LEAST_KEPT_S = 3600


class Draft:
    """A file's content while it comes. Whoever opened it calls `complete` or `discard`; both may be called twice.

    The lock is for a caller that gives up while a thread of its own still writes: the number of a closed file may be
    another file's by then."""

    def __init__(self, contents: Contents, file: UUID, most: int) -> None:
        """Open the draft, whose folder is made. Raises OSError."""
        self.file = file
        self.bytes = 0
        self._contents = contents
        self._most = most
        self._handle = os.open(contents.draft(file), os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        self._is_complete = False
        self._lock = threading.Lock()

    def write(self, data: bytes) -> None:
        """Append the bytes. Raises ApiError when the file grows too large, OSError when the disk is full."""
        if self.bytes + len(data) > self._most:
            raise ApiError("body_too_large", detail=str(self._most))
        with self._lock:
            if self._handle < 0:
                raise OSError("the draft is closed")
            self.bytes += len(data)
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._handle, rest) :]

    def complete(self) -> None:
        """Make it a file that is on the disk, also after a power cut. Raises OSError."""
        if not self._is_complete:
            with self._lock:
                os.fsync(self._handle)
            self._close()
            self._contents.complete(self.file)
            self._is_complete = True

    def discard(self) -> None:
        """Delete all of it; also of a complete one, whose row was not committed."""
        self._close()
        self._contents.erase(self.file)

    def _close(self) -> None:
        with self._lock:
            if self._handle >= 0:
                os.close(self._handle)
                self._handle = -1


def new_file(draft: Draft, owner: Owner, name: str, keep: timedelta, now: datetime) -> NewFile:
    return NewFile(
        draft.file, owner.project_id, owner.user_id, "batch", clean_name(name), draft.bytes, now, now + keep
    )


def kept_for(said: str | None, most: timedelta) -> timedelta:
    """Return how long a file is kept: as the site allows, or shorter where its owner says so. Raises ApiError."""
    if said is None:
        return most
    if not said.isascii() or not said.isdigit() or int(said[:12]) < _LEAST_KEPT_S:
        raise _wrong(KEPT_FOR, f"must be a whole number, at least {_LEAST_KEPT_S}")
    return min(most, timedelta(seconds=min(int(said[:12]), most.total_seconds())))


def clean_name(name: str) -> str:
    """Return the name as people are shown it, never a path: PostgreSQL's text cannot hold a NUL, and nobody needs
    control characters."""
    return "".join(c for c in name if c.isprintable())[:_MOST_NAME] or "file"


def new_batch(
    owner: Owner, token: int | None, file: UUID, said: Mapping[str, Any], now: datetime
) -> NewBatch:
    """Return the batch to create. `said`: endpoint, completion_window and metadata, as anybody may have said them. Raises
    ApiError."""
    endpoint, window = said.get("endpoint"), said.get("completion_window")
    if not isinstance(endpoint, str) or endpoint not in ENDPOINTS:
        raise _wrong("endpoint", f"must be one of {', '.join(sorted(ENDPOINTS))}")
    if not isinstance(window, str) or window not in WINDOWS:
        raise _wrong("completion_window", f"must be one of {', '.join(WINDOWS)}")
    return NewBatch(
        id=uuid4(),
        project_id=owner.project_id,
        user_id=owner.user_id,
        token_id=token,
        endpoint=endpoint,
        completion_window=window,
        metadata=_metadata(said.get("metadata")),
        input_file=file,
        created_at=now,
        expires_at=now + WINDOWS[window],
    )


def _metadata(said: Any) -> dict[str, str]:
    if said is None:
        return {}
    if not isinstance(said, dict) or len(said) > 16:
        raise _wrong("metadata", "must be an object of at most 16 pairs")
    for name, value in said.items():
        if len(name) > 64 or not isinstance(value, str) or len(value) > 512 or not _storable(name + value):
            raise _wrong("metadata", "must map names of up to 64 characters to texts of up to 512")
    return said


def _storable(text: str) -> bool:
    """Say whether a text can be kept: PostgreSQL's JSON holds neither NUL nor half a surrogate pair."""
    return "\0" not in text and not any("\ud800" <= c <= "\udfff" for c in text)


def _wrong(param: str, what: str) -> ApiError:
    return ApiError("invalid_parameter", detail=f"'{param}' {what}.", param=param)
