"""What an agent found in a model's folder → the row of who wants it registered.

Nothing of it is believed beyond its type: texts are cut, numbers are bounded, and a pilot is heard only of what it was
asked to look at.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from gpuworker import wire
from portal.workerapi import wishes

MOST_TEXT = 1000
MOST_NUMBER = 2**50
MOST_LISTED = 20


def keep(cur: Cursor, pilot: UUID, said: Iterable[wire.Inspected], now: datetime) -> bool:
    """Keep what an agent found, and return whether anything of it was news."""
    asked = {wish.id for wish in wishes.inspections(cur, pilot)}
    news = False
    for one in said:
        if one.id not in asked:
            continue
        found = None if one.facts is None else json.dumps(_bounded(dataclasses.asdict(one.facts)))
        error = "" if found else _text(one.error) or "It was not found out why."
        cur.execute(
            """UPDATE fleet_candidate SET found = %s, error = %s, found_at = %s
               WHERE id = %s AND pilot_id = %s AND found_at IS NULL""",
            (found, error, now, one.id, str(pilot)),
        )
        news = news or cur.rowcount == 1
    return news


def _bounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _bounded(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_bounded(inner) for inner in value[:MOST_LISTED]]
    if isinstance(value, str):
        return _text(value)
    return value if isinstance(value, bool) else max(0, min(int(value), MOST_NUMBER))


def _text(value: str) -> str:
    """Return a text without what PostgreSQL cannot hold: a NUL, or half a surrogate pair."""
    return value[:MOST_TEXT].replace("\0", "").encode("utf-8", "replace").decode()
