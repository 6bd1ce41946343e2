"""What the pages of files and batches share: who owns, what an id looks like, one page of a list, the way to SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar
from urllib.parse import parse_qs
from uuid import UUID

import psycopg2
from psycopg2.extensions import cursor as Cursor

from portal.accounts.callers import Caller
from portal.batches.queries import Owner
from portal.db.threads import Database
from portal.errors import ApiError
from portal.http.exchange import Exchange

T = TypeVar("T")


def owner_of(caller: Caller) -> Owner:
    return Owner(caller.project_id, caller.user_id)


def read_id(prefix: str, text: str, code: str) -> UUID:
    """Return the id in e.g. file-<uuid>. Raises ApiError(code) where there is none: it is not found."""
    try:
        id_ = UUID(text.removeprefix(prefix))
    except ValueError:
        raise ApiError(code) from None
    if text != f"{prefix}{id_}":
        raise ApiError(code)
    return id_


async def ask(database: Database, work: Callable[[Cursor], T]) -> T:
    """Run `work` in a transaction of its own. Raises ApiError when PostgreSQL is away."""
    try:
        return await database.run(work)
    except (psycopg2.OperationalError, psycopg2.InterfaceError):
        raise ApiError("database_unavailable", retry_after_s=2) from None


def query(ex: Exchange) -> dict[str, str]:
    found = parse_qs(ex.scope["query_string"].decode("latin-1"))
    return {name: values[-1] for name, values in found.items()}


def limit(asked: dict[str, str], usual: int, most: int) -> int:
    text = asked.get("limit", str(usual))
    if not text.isascii() or not text.isdigit() or not 1 <= int(text[:9]) <= most:
        raise ApiError(
            "invalid_parameter", detail=f"'limit' must be a whole number from 1 to {most}.", param="limit"
        )
    return int(text)


def page(objects: Sequence[dict[str, Any]], most: int) -> dict[str, Any]:
    """Return one page in OpenAI's form; one object more than `most` was read to know whether there is another."""
    data = list(objects[:most])
    return {
        "object": "list",
        "data": data,
        "first_id": data[0]["id"] if data else None,
        "last_id": data[-1]["id"] if data else None,
        "has_more": len(objects) > most,
    }
