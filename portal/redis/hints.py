"""What Django has just committed → "look now" to other processes. Each may be lost; polls find the truth (invariant 10).

Separate so that there is one place that forgives a silent Redis: a page or an API call that has committed its
row has done its work, and must not fail because the nudge after it did.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from uuid import UUID

import redis
from kombu.exceptions import OperationalError

from portal.celery import BATCHES, TICK, app
from portal.config import config
from portal.redis import clients, keys

logger = logging.getLogger(__name__)


def directory_changed() -> None:
    """Have gateways read tokens, projects and models anew."""
    _try("gateways of a changed directory", lambda: _publish(keys.DIRECTORY.of(), "changed"))


def rows_waiting(pool: str) -> None:
    """Have pilots that wait for rows of this pool ask again, and the control loop look whether it needs a pilot."""
    _try(f"pilots of {pool}", lambda: _publish(keys.ROWS.of(pool), "look"))
    tick_soon()


def cancelled(gateway: str, request: UUID, attempt: int) -> None:
    """Have the gateway that holds this request end it towards its client and its engine."""
    message = json.dumps({"cancel": str(request), "attempt": attempt})
    _try(f"gateway {gateway}", lambda: _publish(keys.GATEWAY.of(gateway), message))


def tick_soon() -> None:
    """Have the control loop look now instead of at its next tick."""
    _try("the control loop", _send_tick)


def batches_soon() -> None:
    """Have somebody look at the batches now: one was created or cancelled."""
    _try("those who look after batches", lambda: _send(BATCHES))


def _send_tick() -> None:
    _send(TICK)


def _send(task: str) -> None:
    # Celery's transport tries for 6 s to reach a Redis that is away; ours gives up at once.
    with _redis() as link:
        link.ping()
    app.send_task(task, expires=5, retry=False)


def _publish(channel: str, text: str) -> None:
    with _redis() as link:
        link.publish(channel, text)


def _redis() -> redis.Redis:
    return clients.blocking(config().redis_url, clients.HINT)


def _try(whom: str, act: Callable[[], object]) -> None:
    try:
        act()
    except (redis.RedisError, OperationalError, OSError) as error:
        logger.warning("could not tell %s: %s; it will be seen at the next look", whom, error)
