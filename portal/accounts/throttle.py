"""Attempts to log in → how long this person, from this address, has to wait before the next one.

Counted per user name and address together: who guesses at a name makes neither its owner wait, who sits elsewhere,
nor a neighbour behind the same address. The counts are in Django's cache, which is Redis, so that all web processes
share them; they may be lost, and while Redis is away nobody is made to wait: a log-in must not need it.
"""

from __future__ import annotations

import hashlib
import logging
import unicodedata

from django.core.cache import cache
from redis.exceptions import RedisError

log = logging.getLogger(__name__)

MOST_ATTEMPTS = 5
WINDOW_S = 900


def begin(name: str, address: str, now: float, most: int = MOST_ATTEMPTS) -> int:
    """Return the seconds to wait; 0: go on, and this attempt is counted. It is counted before the password is looked
    at, so that attempts side by side gain nothing."""
    key = _key(name, address)
    try:
        cache.add(f"{key}:ends", now + WINDOW_S, WINDOW_S)
        cache.add(key, 0, WINDOW_S)
        if cache.incr(key) <= most:
            return 0
        ends = cache.get(f"{key}:ends")
    except ValueError:  # the count ran out between two lines: a new window begins
        return 0
    except RedisError as error:
        log.warning("log-in attempts are not counted: %s", error)
        return 0
    return max(1, round(ends - now)) if ends is not None else 1


def forget(name: str, address: str) -> None:
    """Forget the attempts: the password was right."""
    key = _key(name, address)
    try:
        cache.delete_many([key, f"{key}:ends"])
    except RedisError as error:
        log.warning("log-in attempts are not forgotten: %s", error)


def _key(name: str, address: str) -> str:
    same = unicodedata.normalize("NFKC", name).casefold().strip()
    return "login:" + hashlib.sha256(f"{same}\n{address}".encode(errors="replace")).hexdigest()
