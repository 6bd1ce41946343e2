"""Rows that pilots pull, before they are accepted → their places in line, by one Redis call or PostgreSQL's word.

Separate from the gateway's way to the same script because callers here are synchronous and already hold a
database connection. Nothing here waits for Redis: a row that nobody waits for is accepted without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import redis
from psycopg2.extensions import cursor as Cursor

from portal.admission.redis_calls import run
from portal.admission.scripts import of_pool, tag_arguments
from portal.ledger import backlog
from portal.policy import fairshare
from portal.policy.fairshare import Line

logger = logging.getLogger(__name__)


def reserve(
    cur: Cursor, pool: str, lane: str, project: int, shares: Sequence[float], priority: int = 0
) -> list[float]:
    """Return order keys for requests of one project that enter a line together, in this order. `shares`: estimated
    tokens ÷ the project's weight, each."""
    whole = sum(shares)
    try:
        first = _tag(cur, pool, lane, project, whole, priority)
    except (redis.RedisError, OSError) as error:
        logger.warning("the line of %s: %s; its place comes from PostgreSQL", pool, error)
        first, _ = fairshare.tag(backlog.line(cur, pool, lane), project, whole, priority)
    return fairshare.keys(first, shares)


def give_back(cur: Cursor, cancelled: Iterable[UUID]) -> None:
    """Forget what projects reserved of which nothing waits any more; after the cancellation has been committed.

    A reservation that is made in the same moment may be lost with it; it costs others one request's turn."""
    try:
        for pool, lane, project in backlog.lines_left(cur, cancelled):
            run(of_pool("give_back", pool, lane, project))
    except (redis.RedisError, OSError) as error:
        logger.warning("places of cancelled requests stay reserved: %s", error)


def _tag(cur: Cursor, pool: str, lane: str, project: int, share: float, priority: int) -> float:
    def ask(seed: Line | None) -> Any:
        return run(of_pool("tag", pool, *tag_arguments(lane, project, share, priority, "", seed)))

    answer = ask(None)
    while not answer:
        answer = ask(backlog.line(cur, pool, lane))
    return float(answer)
