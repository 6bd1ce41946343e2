"""What reservations and quotas ask of Redis from code that may block (Django's and Celery's): a script, or a look.

Separate from the gateway's way to the same scripts (`slots`), which shares one connection in an event loop. Callers here
have PostgreSQL's word to fall back on, so nothing is asked twice and nobody waits long.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import redis

from portal.admission.scripts import SCRIPTS, Command
from portal.config import config
from portal.redis import clients


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
    """Return the numbers that stand there, without touching them. Raise redis.RedisError."""
    found: Any = _redis().mget(keys)
    return [float(value) if value is not None else None for value in found]


def members(keys: Sequence[str], now: float) -> list[int]:
    """Return how many permits each of these sets holds that are not over, without touching it. Raise redis.RedisError."""
    asked = _redis().pipeline(transaction=False)
    for key in keys:
        asked.zcount(key, now, "+inf")
    return [int(found) for found in asked.execute()]


@cache
def _redis() -> redis.Redis:
    return clients.blocking(config().redis_url, clients.SITE)
