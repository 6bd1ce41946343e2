"""Places in line for rows that pilots pull, asked from Django: one Redis call, or PostgreSQL's word without Redis.

Separate from the gateway's way to the same script because callers here are synchronous and already hold a
database connection. Nothing here waits for Redis: a row that nobody waits for is accepted without it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any
from uuid import UUID

import redis
from psycopg2.extensions import cursor as Cursor

from portal.admission.scripts import SCRIPTS, Command, of_pool, tag_arguments
from portal.config import config
from portal.ledger import backlog
from portal.policy import fairshare
from portal.policy.fairshare import Line
from portal.redis import clients

logger = logging.getLogger(__name__)


def reserve(
    cur: Cursor, pool: str, lane: str, project: int, shares: Sequence[float], priority: int = 0
) -> list[float]:
    """Order keys for requests of one project that enter a line together, in this order. `shares`: estimated
    tokens ÷ the project's weight, each."""
    whole = sum(shares)
    try:
        first = _tag(cur, pool, lane, project, whole, priority)
    except (redis.RedisError, OSError) as error:
        logger.warning("the line of %s: %s; its place comes from PostgreSQL", pool, error)
        first, _ = fairshare.tag(backlog.line(cur, pool, lane), project, whole, priority)
    return fairshare.keys(first, shares)


def give_back(cur: Cursor, cancelled: Iterable[UUID]) -> None:
    """After a cancellation has been committed: a project of which nothing waits any more has reserved nothing.
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


def run(command: Command) -> Any:
    """Return what a script answers. Raise redis.RedisError."""
    link: Any = _redis()
    try:
        return link.execute_command(*command)
    except redis.exceptions.NoScriptError:
        for script in SCRIPTS.values():
            link.script_load(script.text.decode())
        return link.execute_command(*command)


def numbers(keys: Sequence[str]) -> list[float | None]:
    """What stands there, without touching it. Raises redis.RedisError."""
    found: Any = _redis().mget(keys)
    return [float(value) if value is not None else None for value in found]


def members(keys: Sequence[str], now: float) -> list[int]:
    """How many leases each of these sets holds that are not over, without touching it. Raises redis.RedisError."""
    asked = _redis().pipeline(transaction=False)
    for key in keys:
        asked.zcount(key, now, "+inf")
    return [int(found) for found in asked.execute()]


@cache
def _redis() -> redis.Redis:
    return clients.blocking(config().redis_url, clients.SITE)
