"""Limits on waiting requests → how many of each limit's subject wait now, and the lock under which that may be relied on.

Separate from `lines`, which counts for people who look: what is counted here lets a request in or keeps it out. The
ledger is the one place where they are counted, whoever takes the request: whoever adds a row that a limit concerns
locks that limit, counts, inserts and commits. So of two who come at once the second counts the first. No Django.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from psycopg2.errors import LockNotAvailable
from psycopg2.extensions import cursor as Cursor

from portal.errors import ApiError
from portal.ledger.states import RequestState
from portal.policy.limits import Level, Want

# Whoever waits on a connection waits no longer than this for an import that is being written under the same limits.
PATIENCE_S = 5.0
COME_BACK_S = 10

_COLUMNS: dict[Level, str] = {
    "token": "token_id",
    "user": "user_id",
    "project": "project_id",
    "model": "model",
}


def lock(cur: Cursor, limits: Sequence[Want], within_s: float | None = None) -> None:
    """Let nobody else add a request that these limits concern until the caller's transaction ends.

    In one order for everybody, so that no two wait for each other. What is counted before this call may be old.
    `within_s`: how long to wait for those before. Raises ApiError after that."""
    numbers = sorted({_number(limit) for limit in limits})
    if not numbers:
        return
    if within_s is not None:
        cur.execute("SET LOCAL lock_timeout = %s", (round(within_s * 1000),))
    try:
        cur.execute("SELECT pg_advisory_xact_lock(number) FROM unnest(%s::bigint[]) number", (numbers,))
    except LockNotAvailable:
        raise ApiError("database_unavailable", retry_after_s=COME_BACK_S) from None


def count(cur: Cursor, limit: Want) -> int:
    """Return how many requests of the limit's subject wait, in any lane, queued or parked; at most the limit."""
    # State by state: each has a partial index, and `state IN (…)` would read every request that ever ended.
    of_state = f"SELECT 1 FROM ledger_request WHERE state = %s AND {_COLUMNS[limit.level]} = %s LIMIT %s"
    subject = limit.subject if limit.level == "model" else int(limit.subject)
    cur.execute(
        f"SELECT count(*) FROM (({of_state}) UNION ALL ({of_state})) waiting",
        (RequestState.QUEUED, subject, limit.limit, RequestState.PARKED, subject, limit.limit),
    )
    (found,) = cur.fetchone() or (0,)
    return min(int(found), limit.limit)


def _number(limit: Want) -> int:
    """Return the number of the limit's advisory lock; two limits that share one only wait for each other."""
    name = f"berth {limit.level}:{limit.subject}:{limit.kind}"
    digest = hashlib.blake2b(name.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
