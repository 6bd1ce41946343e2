"""Who asks Redis → a client with the time-outs that this caller can bear, and a name by which CLIENT LIST shows it.

The only place that makes clients of redis-py. The data plane's own commands travel over admission.pipe instead, which
costs less (decisions/0010); Celery and Django's cache make theirs from the same BERTH_REDIS_URL.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis
import redis.asyncio as redis_async
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import NoBackoff
from redis.retry import Retry


@dataclass(frozen=True, slots=True)
class Caller:
    """One that asks: how long it waits for a connection and for an answer, and how often it tries again at once."""

    name: str
    connect_s: float
    answer_s: float
    again: int


# A page or an API call waits for it, and its row is committed: the next look is sooner than another try.
HINT = Caller("berth-hint", connect_s=1.0, answer_s=1.0, again=0)
# The same, for answers that PostgreSQL can give instead. One more try on a connection that went stale.
SITE = Caller("berth-site", connect_s=1.0, answer_s=1.0, again=1)
# A tick does not wait for a Redis that is away; its questions are larger.
TICK = Caller("berth-tick", connect_s=2.0, answer_s=5.0, again=1)
# /readyz says what is true now: it opens a connection for each question, and tries once.
READINESS = Caller("berth-readiness", connect_s=3.0, answer_s=3.0, again=0)


def blocking(url: str, caller: Caller) -> redis.Redis:
    """Return a client for code that may block: Django's and Celery's. It connects when it is first asked."""
    return redis.Redis.from_url(
        url,
        client_name=caller.name,
        socket_connect_timeout=caller.connect_s,
        socket_timeout=caller.answer_s,
        retry=Retry(NoBackoff(), caller.again),
    )


def in_loop(url: str, caller: Caller) -> redis_async.Redis:
    """Return a client for code in an event loop. It connects when it is first asked."""
    return redis_async.Redis.from_url(
        url,
        client_name=caller.name,
        socket_connect_timeout=caller.connect_s,
        socket_timeout=caller.answer_s,
        retry=AsyncRetry(NoBackoff(), caller.again),
    )


def listener(url: str, name: str) -> redis_async.Redis:
    """Return a client for a subscription, on which silence is no fault: it has no time-out, and the system's keep-alive
    tells a dead connection."""
    return redis_async.Redis.from_url(url, client_name=name, protocol=2, socket_keepalive=True)
