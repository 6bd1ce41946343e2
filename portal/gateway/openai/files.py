"""/v1/files: upload, list, look at, download and delete the files of batches, in OpenAI's shapes. No Django.

Only their owner sees them (a user in a project, as the token names them); to everybody else they do not exist.
A batch's output may be downloaded while it grows: what is committed is complete lines.
"""

from __future__ import annotations

import asyncio
import os
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any
from uuid import uuid4

from portal.accounts.callers import Caller
from portal.batches import erasure, intake, queries, transitions
from portal.batches.contents import Contents, parts
from portal.batches.intake import Draft
from portal.batches.queries import FileRow
from portal.config import Config
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.openai import resources, upload
from portal.http.exchange import Exchange

_PREFIX = "file-"


class Files:
    def __init__(self, config: Config, database: Database) -> None:
        self._config = config
        self._database = database
        self._contents = Contents(config.files_dir)

    async def create(self, ex: Exchange, caller: Caller, _: str) -> dict[str, Any]:
        owner = resources.owner_of(caller)
        id_, now = uuid4(), datetime.now(UTC)
        draft = Draft(self._contents, id_, self._config.max_file_bytes)
        try:
            got = await upload.receive(ex, draft, self._config.max_file_bytes)
            if got.name is None:
                raise _wrong("file", "is missing: send the file as this part of the form")
            if got.fields.get("purpose") != "batch":
                raise _wrong("purpose", "must be 'batch'")
            keep = intake.kept_for(
                got.fields.get(intake.KEPT_FOR), timedelta(days=self._config.file_keep_days)
            )
            row = intake.new_file(draft, owner, got.name, keep, now)
            await asyncio.to_thread(draft.complete)
            await resources.ask(self._database, partial(transitions.add_file, file=row))
        except BaseException:
            draft.discard()
            raise
        return describe(FileRow(id_, row.purpose, row.name, row.bytes, now, row.expires_at))

    async def listing(self, ex: Exchange, caller: Caller, _: str) -> dict[str, Any]:
        asked = resources.query(ex)
        most = resources.limit(asked, usual=1000, most=10_000)
        order = asked.get("order", "desc")
        if order not in ("asc", "desc"):
            raise _wrong("order", "must be 'asc' or 'desc'")
        after, purpose = asked.get("after"), asked.get("purpose")
        if purpose not in (None, "batch", "batch_output"):
            raise _wrong("purpose", "must be 'batch' or 'batch_output'")
        rows = await resources.ask(
            self._database,
            partial(
                queries.files,
                owner=resources.owner_of(caller),
                purpose=purpose,
                after=None if after is None else resources.read_id(_PREFIX, after, "file_not_found"),
                most=most + 1,
                newest_first=order == "desc",
            ),
        )
        return resources.page([describe(row) for row in rows], most)

    async def show(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        return describe(await self._find(name, caller))

    async def content(self, ex: Exchange, caller: Caller, name: str) -> None:
        row = await self._find(name, caller)
        try:
            handle = await asyncio.to_thread(os.open, self._contents.path(row.id), os.O_RDONLY)
        except FileNotFoundError:
            raise ApiError("file_not_found") from None
        try:
            await ex.answer_bytes(parts(handle, row.bytes), row.bytes)
        finally:
            os.close(handle)

    async def delete(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        row = await self._find(name, caller)
        work = partial(erasure.erase, contents=self._contents, files=[row.id], now=datetime.now(UTC))
        if not await resources.ask(self._database, work):
            raise ApiError("conflict", detail="A batch that is not over uses this file.")
        return {"id": f"{_PREFIX}{row.id}", "object": "file", "deleted": True}

    async def _find(self, name: str, caller: Caller) -> FileRow:
        id_ = resources.read_id(_PREFIX, name, "file_not_found")
        row = await resources.ask(
            self._database, partial(queries.file, id_=id_, owner=resources.owner_of(caller))
        )
        if row is None:
            raise ApiError("file_not_found")
        return row


def describe(row: FileRow) -> dict[str, Any]:
    return {
        "id": f"{_PREFIX}{row.id}",
        "object": "file",
        "bytes": row.bytes,
        "created_at": int(row.created_at.timestamp()),
        "expires_at": int(row.expires_at.timestamp()),
        "filename": row.name,
        "purpose": row.purpose,
        "status": "processed",
        "status_details": None,
    }


def _wrong(param: str, what: str) -> ApiError:
    return ApiError("invalid_parameter", detail=f"'{param}' {what}.", param=param)
