"""/v1/batches: create, list, look at and cancel, in OpenAI's shapes. Rows in, rows out; the work is the scheduler's.

A batch is accepted once its row is committed; its lines are judged after that, so a bad line shows in the batch's
`errors`, not in the answer to its creation (as with OpenAI).
"""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

from portal.accounts.callers import Caller
from portal.batches import cancellation, intake, queries, transitions
from portal.batches.queries import BatchRow
from portal.batches.values import NewBatch
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.openai import resources
from portal.http.exchange import Exchange

_PREFIX = "batch_"
_BODY_BYTES = 64 * 1024


class Batches:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def create(self, ex: Exchange, caller: Caller, _: str) -> dict[str, Any]:
        new = _new(await ex.read(_BODY_BYTES), caller)
        if not await resources.ask(self._database, partial(transitions.create, batch=new)):
            raise ApiError("file_not_found", param="input_file_id")
        await asyncio.to_thread(_wake)
        return await self._find(new.id, caller)

    async def listing(self, ex: Exchange, caller: Caller, _: str) -> dict[str, Any]:
        asked = resources.query(ex)
        most = resources.limit(asked, usual=20, most=100)
        after = asked.get("after")
        from_id = None if after is None else _id(after)
        work = partial(queries.batches, owner=resources.owner_of(caller), after=from_id, most=most + 1)
        rows = await resources.ask(self._database, work)
        return resources.page([describe(row) for row in rows], most)

    async def show(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        return await self._find(_id(name), caller)

    async def cancel(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        work = partial(
            cancellation.cancel, id_=_id(name), owner=resources.owner_of(caller), now=datetime.now(UTC)
        )
        row, moved = await resources.ask(self._database, work)
        if moved:
            await asyncio.to_thread(_wake)
        return describe(row)

    async def _find(self, id_: UUID, caller: Caller) -> dict[str, Any]:
        row = await resources.ask(
            self._database, partial(queries.batch, id_=id_, owner=resources.owner_of(caller))
        )
        if row is None:
            raise ApiError("batch_not_found")
        return describe(row)


def _id(name: str) -> UUID:
    return resources.read_id(_PREFIX, name, "batch_not_found")


def _wake() -> None:
    # Celery takes a third of a second to import: not in the way of the first request.
    from portal.redis import hints

    hints.batches_soon()


def _new(body: bytes, caller: Caller) -> NewBatch:
    """Return the batch to create. Raises ApiError."""
    try:
        said = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError):
        raise ApiError("invalid_json", detail="it cannot be parsed") from None
    if not isinstance(said, dict):
        raise ApiError("invalid_json", detail="it is not an object")
    file = said.get("input_file_id")
    if not isinstance(file, str):
        raise ApiError(
            "invalid_parameter",
            detail="'input_file_id' must be the id of an uploaded file.",
            param="input_file_id",
        )
    id_ = resources.read_id("file-", file, "file_not_found")
    return intake.new_batch(resources.owner_of(caller), caller.token_id, id_, said, datetime.now(UTC))


def describe(row: BatchRow) -> dict[str, Any]:
    ended = _seconds(row.ended_at)
    return {
        "id": f"{_PREFIX}{row.id}",
        "object": "batch",
        "endpoint": row.endpoint,
        "errors": {"object": "list", "data": row.errors} if row.errors else None,
        "input_file_id": f"file-{row.input_file}",
        "completion_window": row.completion_window,
        "status": row.state,
        # Both can be downloaded while the batch runs: they hold what has ended so far.
        "output_file_id": f"file-{row.output_file}" if row.output_file else None,
        "error_file_id": f"file-{row.error_file}" if row.error_file else None,
        "created_at": _seconds(row.created_at),
        "in_progress_at": _seconds(row.in_progress_at),
        "expires_at": _seconds(row.expires_at),
        "finalizing_at": _seconds(row.finalizing_at),
        "cancelling_at": _seconds(row.cancelling_at),
        **{
            f"{end}_at": ended if row.state == end else None
            for end in ("completed", "failed", "expired", "cancelled")
        },
        "request_counts": {
            "total": row.total,
            "completed": row.completed,
            "failed": row.failed,
            "cancelled": row.cancelled,
            "expired": row.expired,
        },
        "metadata": row.metadata or None,
    }


def _seconds(moment: datetime | None) -> int | None:
    return None if moment is None else int(moment.timestamp())
