"""The only code that moves a batch from one state to another, and its requests as a whole.

validating ─▶ in_progress ─▶ finalizing ─▶ completed | expired
    │  └────────────┴──▶ cancelling ─▶ cancelled
    └─▶ failed

Like the moves of requests (portal.ledger.transitions): SQL over a plain cursor, each move names the state that it
expects, the caller commits. A batch that validates has no requests; the move to in_progress makes them all in one
transaction, so nothing that is half imported is ever queued or has to be resumed.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal
from uuid import UUID, uuid4

from psycopg2.extensions import cursor as Cursor

from portal.batches.values import End, NewBatch, NewFile, NewLine, Written
from portal.db.rows import named
from portal.ledger.states import BatchState, Lane, RequestState

NobodyRan = Literal[RequestState.CANCELLED, RequestState.EXPIRED]
LIVE = (BatchState.VALIDATING, BatchState.IN_PROGRESS, BatchState.CANCELLING, BatchState.FINALIZING)


def add_file(cur: Cursor, file: NewFile) -> None:
    cur.execute(
        """INSERT INTO ledger_file (id, project_id, user_id, purpose, name, bytes, created_at, expires_at)
           VALUES (%s, %s, %s, %s, %s, %s, %s, %s) ON CONFLICT (id) DO NOTHING""",
        (file.id, file.project_id, file.user_id, file.purpose, file.name, file.bytes, file.created_at,
         file.expires_at),
    )  # fmt: skip


def erase_files(cur: Cursor, files: Iterable[UUID], now: datetime) -> list[UUID]:
    """Mark the files erased that no live batch reads or writes, and return them. The caller deletes the content
    before it commits."""
    wanted = [str(file) for file in files]
    # A statement of its own, so that the next one sees a batch that was created while this one waited.
    cur.execute("SELECT 1 FROM ledger_file WHERE id = ANY(%s::uuid[]) ORDER BY id FOR UPDATE", (wanted,))
    cur.execute(
        """UPDATE ledger_file f SET erased_at = %s, name = ''
           WHERE f.id = ANY(%s::uuid[]) AND f.erased_at IS NULL AND NOT EXISTS (
             SELECT 1 FROM ledger_batch b
             WHERE b.state = ANY(%s) AND f.id IN (b.input_file_id, b.output_file_id, b.error_file_id))
           RETURNING f.id""",
        (now, wanted, list(LIVE)),
    )
    return [UUID(str(id_)) for (id_,) in cur.fetchall()]


def create(cur: Cursor, batch: NewBatch) -> bool:
    """Create a batch that validates; False when the input file is not the owner's to use, or gone. The lock keeps it
    from being erased at the same moment."""
    cur.execute(
        """SELECT 1 FROM ledger_file WHERE id = %s AND project_id = %s AND user_id = %s AND purpose = 'batch'
             AND erased_at IS NULL FOR SHARE""",
        (batch.input_file, batch.project_id, batch.user_id),
    )
    if cur.fetchone() is None:
        return False
    cur.execute(
        """INSERT INTO ledger_batch (id, project_id, user_id, token_id, state, endpoint, completion_window, metadata,
             input_file_id, created_at, expires_at, errors, total, completed, failed, cancelled, expired)
           VALUES (%s, %s, %s, %s, 'validating', %s, %s, %s, %s, %s, %s, '[]', 0, 0, 0, 0, 0)""",
        (batch.id, batch.project_id, batch.user_id, batch.token_id, batch.endpoint, batch.completion_window,
         json.dumps(batch.metadata), batch.input_file, batch.created_at, batch.expires_at),
    )  # fmt: skip
    return True


def fail(cur: Cursor, batch: UUID, errors: Sequence[dict[str, Any]], now: datetime) -> bool:
    """Move validating → failed: its file holds lines that cannot be run. Nothing of it was queued."""
    cur.execute(
        """UPDATE ledger_batch SET state = 'failed', errors = %s, ended_at = %s
           WHERE id = %s AND state = 'validating'""",
        (json.dumps(list(errors)), now, batch),
    )
    return cur.rowcount == 1


def begin(
    cur: Cursor,
    batch: UUID,
    lines: Iterable[NewLine],
    now: datetime,
    state: str = RequestState.QUEUED,
    priority: int = 0,
) -> bool:
    """Move validating → in_progress, with one request, queued or parked, for each line, all or none. False: it was
    cancelled, or somebody else began it; the caller then rolls back.

    COPY, because it takes a tenth of the time of INSERT. The state moves last: a person who cancels meanwhile must
    not wait for the copy."""
    cur.execute(
        "SELECT project_id, user_id, token_id, endpoint, expires_at FROM ledger_batch WHERE id = %s", (batch,)
    )
    found = cur.fetchone()
    if found is None:
        return False
    project, user, token, endpoint, expires_at = found
    tail = "\t".join(
        (str(project), str(user), r"\N" if token is None else str(token), endpoint, "f", Lane.BATCH, str(priority), state,
         "0", "0", str(batch), now.isoformat(), expires_at.isoformat())
    )  # fmt: skip
    source: Any = _CopySource(lines, tail)  # psycopg2 calls `read` only
    cur.copy_expert(
        """COPY ledger_request (id, pool, model, order_key, batch_line, batch_offset, batch_length, custom_id,
             project_id, user_id, token_id, api, stream, lane, priority, state, attempt, crashes, batch_id,
             accepted_at, expires_at) FROM STDIN""",
        source,
        size=1 << 16,
    )
    cur.execute(
        """UPDATE ledger_batch SET state = 'in_progress', in_progress_at = %s, total = %s
           WHERE id = %s AND state = 'validating'""",
        (now, source.count, batch),
    )
    return cur.rowcount == 1


class _CopySource:
    """A source of lines as the text that COPY reads, made as it reads it."""

    def __init__(self, lines: Iterable[NewLine], tail: str) -> None:
        self._lines = iter(lines)
        self._tail = tail
        self._left = b""
        self.count = 0

    def read(self, size: int = -1) -> bytes:
        parts, length = [self._left], len(self._left)
        for line in self._lines:
            self.count += 1
            text = (
                f"{uuid4()}\t{_quoted(line.pool)}\t{_quoted(line.model)}\t{line.order_key!r}\t{line.number}\t"
                f"{line.offset}\t{line.length}\t{_quoted(line.custom_id)}\t{self._tail}\n"
            ).encode()
            parts.append(text)
            length += len(text)
            if 0 <= size <= length:
                break
        whole = b"".join(parts)
        if size < 0:
            size = len(whole)
        self._left = whole[size:]
        return whole[:size]


def _quoted(text: str) -> str:
    """Return the text as COPY's text format has it."""
    if "\\" in text or "\t" in text or "\n" in text or "\r" in text:
        return text.replace("\\", "\\\\").replace("\t", "\\t").replace("\n", "\\n").replace("\r", "\\r")
    return text


def ask_cancel(cur: Cursor, batch: UUID, now: datetime) -> bool:
    """Move validating | in_progress → cancelling. What it had queued ends with the next `end_waiting`."""
    cur.execute(
        """UPDATE ledger_batch SET state = 'cancelling', cancelling_at = %s
           WHERE id = %s AND state IN ('validating', 'in_progress')""",
        (now, batch),
    )
    return cur.rowcount == 1


def end_waiting(cur: Cursor, batch: UUID, state: NobodyRan, now: datetime, *, running_too: bool) -> int:
    """Move queued | parked (| running) → cancelled | expired for all requests of the batch, each into the outbox.
    Answers how many. A pilot learns with its next sync that a row it runs is not wanted any more.

    Rows that somebody holds locked are passed over: the next look finds them."""
    states = [RequestState.QUEUED, RequestState.PARKED, *([RequestState.RUNNING] if running_too else [])]
    cur.execute(
        """WITH moved AS (
             UPDATE ledger_request SET state = %s, ended_at = %s, error_code = %s
             WHERE id = ANY(ARRAY(SELECT id FROM ledger_request WHERE batch_id = %s AND state = ANY(%s)
               ORDER BY batch_line FOR UPDATE SKIP LOCKED))
             RETURNING id, batch_line)
           INSERT INTO ledger_batchend (batch_id, request_id, result)
           SELECT %s, id, NULL FROM moved ORDER BY batch_line""",
        (state, now, f"batch_{state}", batch, states, batch),
    )
    return cur.rowcount


def open_files(cur: Cursor, batch: UUID, output: NewFile | None, error: NewFile | None) -> None:
    """Give the batch the files that it did not have yet."""
    for file, column in ((output, "output_file_id"), (error, "error_file_id")):
        if file is not None:
            add_file(cur, file)
            cur.execute(
                f"UPDATE ledger_batch SET {column} = %s WHERE id = %s AND {column} IS NULL", (file.id, batch)
            )


def take_ends(cur: Cursor, batch: UUID, most: int, most_bytes: int) -> list[End]:
    """Remove ended lines from the outbox, oldest first: what the caller writes before it commits. At least one if
    there is one; with it no more than `most`, nor more than `most_bytes` of results."""
    cur.execute(
        """WITH gone AS (
             DELETE FROM ledger_batchend WHERE id = ANY(ARRAY(
               SELECT id FROM (
                 SELECT id, row_number() OVER w AS n, sum(coalesce(octet_length(result), 0)) OVER w AS size
                 FROM (SELECT id, result FROM ledger_batchend WHERE batch_id = %s ORDER BY id LIMIT %s) oldest
                 WINDOW w AS (ORDER BY id)) sized
               WHERE n = 1 OR size <= %s))
             RETURNING id, request_id, result)
           SELECT r.id AS request, r.custom_id, r.state, r.http_status, r.error_code, r.error_text, gone.result
           FROM gone JOIN ledger_request r ON r.id = gone.request_id ORDER BY gone.id""",
        (batch, most, most_bytes),
    )
    return named(cur, _end)


def _end(*, result: Any, **known: Any) -> End:
    return End(result=None if result is None else bytes(result), **known)


def written(cur: Cursor, batch: UUID, step: Written) -> None:
    """Count what was written and say how far the files may be read; commits together with `take_ends`."""
    ends = step.ends
    cur.execute(
        """UPDATE ledger_batch SET completed = completed + %s, failed = failed + %s, cancelled = cancelled + %s,
             expired = expired + %s WHERE id = %s RETURNING output_file_id, error_file_id""",
        (
            ends.get(RequestState.DONE, 0),
            ends.get(RequestState.FAILED, 0),
            ends.get(RequestState.CANCELLED, 0),
            ends.get(RequestState.EXPIRED, 0),
            batch,
        ),
    )
    output, error = cur.fetchone() or (None, None)
    for file, length in ((output, step.output_bytes), (error, step.error_bytes)):
        if file is not None:
            cur.execute(
                "UPDATE ledger_file SET bytes = %s WHERE id = %s AND bytes <> %s", (length, file, length)
            )


def finalize(cur: Cursor, batch: UUID, now: datetime) -> bool:
    """Move in_progress → finalizing, once every line's end is written."""
    cur.execute(
        """UPDATE ledger_batch SET state = 'finalizing', finalizing_at = %s
           WHERE id = %s AND state = 'in_progress' AND completed + failed + cancelled + expired = total""",
        (now, batch),
    )
    return cur.rowcount == 1


def end(cur: Cursor, batch: UUID, now: datetime) -> bool:
    """Move finalizing → completed, or expired when lines ran out of time; cancelling → cancelled once every line's end
    is written; a validating one whose window is over → expired."""
    cur.execute(
        """UPDATE ledger_batch SET ended_at = %s, state = CASE
             WHEN state = 'cancelling' THEN 'cancelled'
             WHEN state = 'validating' OR expired > 0 THEN 'expired' ELSE 'completed' END
           WHERE id = %s AND completed + failed + cancelled + expired = total
             AND (state IN ('finalizing', 'cancelling') OR (state = 'validating' AND expires_at <= %s))""",
        (now, batch, now),
    )
    return cur.rowcount == 1
