"""Lines that have ended → the batch's output and error files, each exactly once, while it runs.

One step is one transaction: it takes ends from the outbox, appends them behind the committed length of the files,
syncs, and commits counters and new lengths. A crash before the commit leaves only bytes behind that length, which
nobody reads and the next step overwrites. So a download shows whole lines at any time, and at the end nothing is
left to copy.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

from psycopg2.extensions import cursor as Cursor

from portal.batches import queries, transitions
from portal.batches.contents import Contents
from portal.batches.queries import BatchRow
from portal.batches.values import End, NewFile, Written
from portal.config import Config
from portal.db.transaction import moving
from portal.ledger.states import RequestState

STEP_LINES = 2000
STEP_BYTES = 16 * 2**20

_WORDS = {
    "batch_cancelled": "The batch was cancelled before this line was run.",
    "batch_expired": "This line could not be run before the batch's completion window was over.",
    "cancelled": "This request was cancelled.",
}


def write_step(id_: UUID, settings: Config, now: float) -> bool:
    """Write ended lines to the batch's files; return whether the step was full, so that more is likely to wait: one
    that ends while lines keep ending must not keep other batches from being looked at. Raises OSError."""
    with moving() as cur:
        batch = queries.locked(cur, id_)
        ends = transitions.take_ends(cur, id_, STEP_LINES, STEP_BYTES)
        if batch is None or not ends:
            return False
        answers = [end for end in ends if end.state == RequestState.DONE]
        failures = [end for end in ends if end.state != RequestState.DONE]
        opened = _open(cur, batch, settings, now, bool(answers), bool(failures))
        contents = Contents(settings.files_dir)
        lengths = queries.lengths(cur, [file for file in opened if file is not None])
        new_lengths = [
            0 if file is None else _append(contents, file, lengths[file], part)
            for file, part in zip(opened, (answers, failures), strict=True)
        ]
        step = Written(Counter(end.state for end in ends), *new_lengths)
        transitions.written(cur, id_, step)
    return len(ends) == STEP_LINES or sum(len(end.result or b"") for end in ends) > STEP_BYTES // 2


def _open(
    cur: Cursor, batch: BatchRow, settings: Config, now: float, needs_output: bool, needs_error: bool
) -> tuple[UUID | None, UUID | None]:
    """Return the batch's output and error file; each is made when it gets its first line."""
    at = datetime.fromtimestamp(now, UTC)
    made: list[NewFile | None] = []
    for file, needed, kind in (
        (batch.output_file, needs_output, "output"),
        (batch.error_file, needs_error, "error"),
    ):
        new = needed and file is None
        made.append(
            NewFile(
                uuid4(), batch.project_id, batch.user_id, "batch_output", f"batch_{batch.id}_{kind}.jsonl", 0, at,
                at + timedelta(days=settings.file_keep_days),
            )
            if new
            else None
        )  # fmt: skip
    output, error = made
    transitions.open_files(cur, batch.id, output, error)
    return (
        output.id if output is not None else batch.output_file,
        error.id if error is not None else batch.error_file,
    )


def _append(contents: Contents, file: UUID, length: int, ends: Iterable[End]) -> int:
    """Write the lines at `length`, whatever a crash left behind it, and return the new length."""
    data = b"".join(_line(end) for end in ends)
    if not data:
        return length
    contents.draft(file)  # the folder exists
    handle = os.open(contents.path(file), os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        os.ftruncate(handle, length)
        at, rest = length, memoryview(data)
        while rest:
            done = os.pwrite(handle, rest, at)
            at, rest = at + done, rest[done:]
        os.fsync(handle)
    finally:
        os.close(handle)
    if length == 0:
        contents.sync_folder()
    return at


def _line(end: End) -> bytes:
    """Return one line as OpenAI writes it. The engine's JSON goes in as it came: it is not parsed again."""
    head = json.dumps({"id": f"batch_req_{end.request}", "custom_id": end.custom_id})[:-1].encode()
    error = b"null" if end.state == RequestState.DONE else json.dumps(_error(end)).encode()
    return head + b', "response": ' + _response(end) + b', "error": ' + error + b"}\n"


def _response(end: End) -> bytes:
    if not end.result or end.http_status is None:
        return b"null"
    head = json.dumps({"status_code": end.http_status, "request_id": str(end.request)})[:-1].encode()
    # Inside JSON, line ends stand only between the tokens.
    body = end.result.replace(b"\r", b" ").replace(b"\n", b" ")
    return head + b', "body": ' + body + b"}"


def _error(end: End) -> dict[str, Any]:
    code = end.error_code or f"batch_{end.state}"
    message = end.error_text or _WORDS.get(code) or "The request failed."
    return {"code": code, "message": message}
