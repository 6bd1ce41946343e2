"""Payloads and results whose time is over → erased (invariant 14). Once an hour, by whichever tick comes first."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta

import redis as redis_library

from portal.config import Config
from portal.db.transaction import moving
from portal.ledger import transitions as ledger
from portal.redis import keys

logger = logging.getLogger(__name__)


def sweep(redis: redis_library.Redis, config: Config, now: float) -> int:
    """Erase what is over, and return how many payloads that were. A Redis that is away or was flushed means that it is
    done sooner or later, not never."""
    try:
        if not redis.set(keys.RETENTION.of(), 1, nx=True, ex=keys.RETENTION.expires_s):
            return 0
    except redis_library.RedisError as error:
        logger.warning("retention: %s", error)
        return 0
    before = datetime.fromtimestamp(now, UTC) - timedelta(days=config.result_keep_days)
    with moving() as cur:
        erased = ledger.erase_results(cur, before)
    if erased:
        logger.info("%d payloads of ended requests were erased", erased)
    return erased
