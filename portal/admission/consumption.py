"""The limits of somebody → how much of each is taken at this moment, as the limiter in Redis counts it. Takes nothing.

Separate from the quotas that rows are counted against: nobody waits for this, it is only shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from django.db import connection

from portal.accounts.callers import read_quotas
from portal.admission.redis_calls import members, numbers
from portal.admission.subjects import key_of
from portal.config import config
from portal.db.connections import plain
from portal.policy.limits import KINDS, RATES, Level, Want, rate, wants

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Consumption:
    """A limit, and how much of it is taken at this moment; None where Redis does not say."""

    want: Want
    used: int | None


def of(tokens: Sequence[int], users: Sequence[int], projects: Sequence[int], now: float) -> list[Consumption]:
    """Return every limit of these subjects, in this order, with what is taken of it."""
    levels: tuple[tuple[Level, Sequence[int]], ...] = (
        ("token", tokens), ("user", users), ("project", projects),
    )  # fmt: skip
    named = [(level, str(subject)) for level, subjects in levels for subject in subjects]
    with connection.cursor() as cur:
        own = read_quotas(plain(cur), named)
    found = [
        (level, subject, quota)
        for level, subject in named
        if (quota := own.get((level, subject)) or config().limits.get(level)) is not None
    ]
    asked = wants(found, KINDS, 0)
    try:
        used = _used(asked, now)
    except (redis.RedisError, OSError) as error:
        logger.warning("limits: %s; what is used of them is not known", error)
        used = {}
    return [Consumption(want, used.get(want)) for want in asked]


def _used(asked: Sequence[Want], now: float) -> dict[Want, int]:
    """Return how much of each is taken. Raise redis.RedisError."""
    rates = [want for want in asked if want.kind in RATES]
    counts = [want for want in asked if want.kind not in RATES]
    found: dict[Want, int] = {}
    if rates:
        for want, full_at in zip(rates, numbers([key_of(want) for want in rates]), strict=True):
            found[want] = want.limit - rate(full_at, want.limit, 0, now).remaining
    if counts:
        held = members([key_of(want) for want in counts], now)
        found |= dict(zip(counts, held, strict=True))
    return found
