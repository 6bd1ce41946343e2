"""Takes replicas out of Redis' routes once the fleet's tables say that they are out of routing.

The worker API writes routes from pilots' reports; a pilot that died reports nothing any more, so somebody
else has to take its routes away. One sweep at the end of each tick serves every kind of drain and end.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from uuid import UUID

import redis as redis_library

from portal.fleet.models import Replica
from portal.fleet.states import ReplicaState
from portal.redis import keys

logger = logging.getLogger(__name__)

_ROUTED = (ReplicaState.WANTED, ReplicaState.STARTING, ReplicaState.HOT)


def _drop(redis: redis_library.Redis, pool: str, replicas: Iterable[str]) -> None:
    names = list(replicas)
    if names:
        try:
            redis.hdel(keys.ROUTES.of(pool), *names)
        except redis_library.RedisError as error:
            logger.warning("could not remove routes of %s, the next sweep will: %s", pool, error)


def sweep(redis: redis_library.Redis, pools: Iterable[str], lost: Iterable[str] = ()) -> None:
    """Remove routes of replicas that drain or have ended, or whose pilot is `lost`: its next report brings them back.

    Redis is read before the tables, so that a route that is being added is never taken for a stale one."""
    names = sorted(pools)
    pipe = redis.pipeline(transaction=False)
    for pool in names:
        pipe.hkeys(keys.ROUTES.of(pool))
    try:
        routed = {
            pool: {replica.decode() for replica in found}
            for pool, found in zip(names, pipe.execute(), strict=True)
        }
    except redis_library.RedisError as error:
        logger.warning("Redis did not answer: %s", error)
        return
    ids = {replica for found in routed.values() for replica in found if _is_id(replica)}
    if not any(routed.values()):
        return
    rows = Replica.objects.filter(id__in=ids, state__in=_ROUTED).exclude(pilot__in=list(lost))
    good = {str(replica) for replica in rows.values_list("id", flat=True)}
    for pool, found in routed.items():
        _drop(redis, pool, found - good)


def _is_id(text: str) -> bool:
    try:
        UUID(text)
    except ValueError:
        return False
    return True
