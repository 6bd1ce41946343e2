"""A file's id → its content on disk: `<files_dir>/<id>`. Names given by people are never part of a path.

Separate from the table, because gateways, Celery workers and the worker API all touch the content and none of
them does it through the ORM. While it is written, a file is `<id>.part`; renamed, it is complete.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Iterable, Iterator
from pathlib import Path
from uuid import UUID

from portal.ledger.transitions import Span

PART = ".part"
_READ_BYTES = 256 * 1024


class Contents:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, file: UUID) -> Path:
        return self._folder / str(file)

    def draft(self, file: UUID) -> Path:
        """Return where a file is written before it is complete; the folder exists after this."""
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        return self._folder / f"{file}{PART}"

    def complete(self, file: UUID) -> None:
        """Make the draft, which its writer has synced, the file; it is one also after a power cut."""
        (self._folder / f"{file}{PART}").rename(self.path(file))
        self.sync_folder()

    def sync_folder(self) -> None:
        handle = os.open(self._folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

    def erase(self, file: UUID) -> None:
        for path in (self.path(file), self._folder / f"{file}{PART}"):
            path.unlink(missing_ok=True)

    def strays(self, older_than: float) -> Iterator[tuple[UUID, bool]]:
        """Yield (id, whether it is a draft) of what was last written before then (UNIX s)."""
        try:
            found = list(os.scandir(self._folder))
        except FileNotFoundError:
            return
        for entry in found:
            if entry.stat().st_mtime < older_than:
                try:
                    yield UUID(entry.name.removesuffix(PART)), entry.name.endswith(PART)
                except ValueError:
                    continue  # not ours

    def bodies(self, spans: Iterable[Span]) -> dict[Span, bytes]:
        """Return the request bodies of batches' lines; what cannot be read any more is missing. Each file is opened
        once."""
        by_file: dict[UUID, list[Span]] = {}
        for span in spans:
            by_file.setdefault(span.file, []).append(span)
        found: dict[Span, bytes] = {}
        for file, wanted in by_file.items():
            try:
                handle = os.open(self.path(file), os.O_RDONLY)
            except OSError:
                continue
            try:
                for span in wanted:
                    body = _body(os.pread(handle, span.length, span.offset))
                    if body is not None:
                        found[span] = body
            finally:
                os.close(handle)
        return found


async def parts(handle: int, length: int) -> AsyncIterator[bytes]:
    """Yield the first `length` bytes of an open file, which may grow meanwhile. Raises OSError."""
    at = 0
    while at < length:
        part = await asyncio.to_thread(os.pread, handle, min(_READ_BYTES, length - at), at)
        if not part:
            raise OSError("the file is shorter than its row says")
        at += len(part)
        yield part


def _body(line: bytes) -> bytes | None:
    try:
        body = json.loads(line)["body"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    return json.dumps(body, separators=(",", ":")).encode()
