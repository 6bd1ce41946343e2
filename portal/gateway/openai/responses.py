"""Responses asked for in the background: a request's row → the object that /v1/responses shows; and their cancel.

Separate from `background`, which accepts any kind of request: this is the one API in which results are fetched
by the id of an answer. Only those asked for with `background: true` are kept.
"""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import partial
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2.extensions import cursor as Cursor

from gpuworker.wire import RESPONSE
from portal.accounts.callers import Caller
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.openai import resources
from portal.http.exchange import Exchange
from portal.ledger import transitions
from portal.ledger.answers import Found, find
from portal.ledger.states import Lane, RequestState

_MARK = "resp_"
_STATUS: dict[str, str] = {
    RequestState.QUEUED: "queued",
    RequestState.PARKED: "queued",
    RequestState.RUNNING: "in_progress",
    RequestState.DONE: "completed",
    RequestState.CANCELLED: "cancelled",
    RequestState.FAILED: "failed",
    RequestState.EXPIRED: "failed",
}


class Responses:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def show(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        return await self._shown(ex, caller, name, cancels=False)

    async def cancel(self, ex: Exchange, caller: Caller, name: str) -> dict[str, Any]:
        return await self._shown(ex, caller, name, cancels=True)

    async def _shown(self, ex: Exchange, caller: Caller, name: str, *, cancels: bool) -> dict[str, Any]:
        """Return the response, cancelled first where that is asked. Raises ApiError."""
        if resources.query(ex).get("stream") == "true":
            raise ApiError("invalid_parameter", detail="A kept response is not streamed.", param="stream")
        look = partial(_look, id_=_uuid(name), caller=caller, cancels=cancels)
        try:
            found = await self._database.run(look)
        except psycopg2.Error:
            raise ApiError("database_unavailable", retry_after_s=10) from None
        if found is None or (found.state == RequestState.DONE and found.result is None):
            raise ApiError("response_not_found", detail=name[:80])
        return shown(found)


def _look(cur: Cursor, id_: UUID, caller: Caller, *, cancels: bool) -> Found | None:
    """Return the response, if it is one and the caller's. Cancelling one that has ended changes nothing."""
    found = find(cur, id_)
    if found is None or (found.user_id, found.project_id) != (caller.user_id, caller.project_id):
        return None
    if found.api != RESPONSE.path or found.lane != Lane.ASYNC:
        return None
    if cancels and transitions.cancel(cur, [id_], datetime.now(UTC), "cancelled by its owner"):
        return find(cur, id_)
    return found


def _uuid(name: str) -> UUID:
    try:
        return UUID(name.removeprefix(_MARK))
    except ValueError:
        raise ApiError("response_not_found", detail=name[:80]) from None


def pending(request: str, model: str, accepted_at: datetime, state: str) -> dict[str, Any]:
    """Return a response without an answer (yet)."""
    return {
        "id": _MARK + UUID(request).hex,
        "object": "response",
        "created_at": int(accepted_at.timestamp()),
        "status": _STATUS[state],
        "background": True,
        "model": model,
        "output": [],
        "error": None,
        "incomplete_details": None,
        "instructions": None,
        "metadata": {},
        "parallel_tool_calls": True,
        "temperature": None,
        "tool_choice": "auto",
        "tools": [],
        "top_p": None,
        "usage": None,
    }


def shown(found: Found) -> dict[str, Any]:
    said = pending(str(found.id), found.model, found.accepted_at, found.state)
    if found.state == RequestState.DONE:
        try:
            result = json.loads(found.result or b"")
        except ValueError:
            result = None
        if isinstance(result, dict):
            return {**said, **result, "id": said["id"], "background": True}
        said["status"] = "failed"
    if said["status"] == "failed":
        said["error"] = {"code": "server_error", "message": _message(found)}
    return said


def _message(found: Found) -> str:
    """Return why it failed. The engine's own words go to the owner, whose response it is."""
    try:
        return str(json.loads(found.result or b"")["error"]["message"])
    except (ValueError, TypeError, KeyError):
        return found.error_text or found.error_code or "It has no answer."
