"""What pilots last reported, from Redis, as values.

Separate from the listing: these are two witnesses, and neither may speak for the other. Redis that does not
answer is `None`, not "nobody reported" (invariant 1).
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from dataclasses import dataclass

import redis as redis_library

from gpuworker.wire import ObservedReplica, Sync, WireError, read
from portal.redis import keys

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Heard:
    """One pilot's last report and when the portal got it (UNIX seconds)."""

    received_at: float
    job_id: int
    replicas: dict[str, ObservedReplica]
    leaves: bool = False  # it drains by itself or is about to exit, e.g. because Slurm told it to go


def hear(redis: redis_library.Redis, pilots: Iterable[str]) -> dict[str, Heard] | None:
    """Return the last reports by pilot id; those without one are missing. None when Redis did not answer."""
    ids = list(pilots)
    if not ids:
        return {}
    try:
        found = redis.mget([keys.SYNC.of(pilot) for pilot in ids])
    except redis_library.RedisError as error:
        logger.warning("Redis did not answer: %s", error)
        return None
    assert isinstance(found, list)
    heard = {}
    for pilot, text in zip(ids, found, strict=True):
        if text is None:
            continue
        try:
            report = json.loads(text)
            sync, received_at = read(Sync, report), float(report["received_at"])
        except (WireError, KeyError, TypeError, ValueError) as error:
            logger.warning("pilot %s: unreadable report: %s", pilot, error)
            continue
        heard[pilot] = Heard(
            received_at, sync.job_id, {r.id: r for r in sync.replicas}, sync.draining or bool(sync.ending)
        )
    return heard
