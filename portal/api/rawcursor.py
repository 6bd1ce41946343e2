"""Django's cursor → psycopg2's own, which the transitions take, inside Django's transaction."""

from __future__ import annotations

from typing import Any

from psycopg2.extensions import cursor as Cursor


def plain(cur: Any) -> Cursor:
    inner = cur.cursor
    assert isinstance(inner, Cursor)
    return inner
