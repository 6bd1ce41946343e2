"""Celery's side of the control loop. Messages say "look now" and carry nothing (DESIGN §2): one that is lost
costs a beat interval, one that comes twice costs a look.
"""

from __future__ import annotations

from functools import cache

import redis as redis_library

from portal.celery import TICK, app
from portal.config import config
from scheduler.reconcile import run_once


@app.task(name=TICK, ignore_result=True)
def tick() -> None:
    run_once(config(), _redis())


def wake() -> None:
    """Asks for a tick at once."""
    tick.apply_async(expires=max(config().tick_s * 2, 5))


@cache
def _redis() -> redis_library.Redis:
    return redis_library.Redis.from_url(config().redis_url, socket_timeout=5, socket_connect_timeout=2)
