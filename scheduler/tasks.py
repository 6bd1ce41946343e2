"""Celery's side of the control loop. Messages say "look now" and carry nothing (DESIGN §2): one that is lost
costs a beat interval, one that comes twice costs a look.
"""

from __future__ import annotations

import time
from functools import cache

import redis as redis_library

from portal.batches.expiry import retain
from portal.batches.passes import look
from portal.celery import BATCHES, FILES, NOTICES, TICK, USAGE, app
from portal.config import config
from portal.db.transaction import NOTICES_LOCK, loop_lock
from portal.notices.look import look as send_notices
from portal.redis import clients, keys
from scheduler.maintenance.usage import fold
from scheduler.reconcile import run_once


@app.task(name=TICK, ignore_result=True)
def tick() -> None:
    """Run the control loop once, and once more for each look that was asked for meanwhile."""
    redis = _redis()
    if not run_once(config(), redis):
        # That one may have looked before whatever this one was woken for.
        redis.set(keys.TICK_AGAIN.of(), 1, ex=keys.TICK_AGAIN.expires_s)
        # The other one may have ended before it could see the mark.
        if not run_once(config(), redis):
            return
    while redis.getdel(keys.TICK_AGAIN.of()):
        run_once(config(), redis)


@app.task(name=BATCHES, ignore_result=True)
def batches() -> None:
    """Look after batches: import, finish, expire them."""
    look(config(), time.time())


@app.task(name=FILES, ignore_result=True)
def files() -> None:
    """Delete files whose time is over."""
    retain(config(), time.time())


@app.task(name=USAGE, ignore_result=True)
def usage() -> None:
    """Fold usage into the sums by hour."""
    fold()


@app.task(name=NOTICES, ignore_result=True)
def notices() -> None:
    """Send what notices are due, in one process at a time."""
    with loop_lock(NOTICES_LOCK) as ours:
        if ours:
            send_notices(config())


def wake() -> None:
    """Ask for a tick at once."""
    tick.apply_async(expires=max(config().tick_s * 2, 5))


@cache
def _redis() -> redis_library.Redis:
    return clients.blocking(config().redis_url, clients.TICK)
