"""The limits of somebody → how much of each is taken at this moment, as the limiter in Redis counts it. Takes nothing.

Separate from the quotas that rows are counted against: nobody waits for this, it is only shown.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import redis
from django.db.models import Q

from portal.accounts.models import Quota as Row
from portal.admission import quotas
from portal.admission.redis_calls import members, numbers
from portal.admission.subjects import key_of
from portal.config import config
from portal.policy.limits import KINDS, RATES, Level, Want, rate, wants

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Consumption:
    """A limit, and how much of it is taken at this moment; None where Redis does not say."""

    want: Want
    used: int | None


def of(tokens: Sequence[int], users: Sequence[int], projects: Sequence[int], now: float) -> list[Consumption]:
    """Return every limit of these subjects, in this order, with what is taken of it."""
    rows = Row.objects.filter(Q(token_id__in=tokens) | Q(user_id__in=users) | Q(project_id__in=projects))
    own = quotas.of_rows(rows)
    levels: tuple[tuple[Level, Sequence[int]], ...] = (
        ("token", tokens), ("user", users), ("project", projects),
    )  # fmt: skip
    found = [
        (level, str(subject), quota)
        for level, subjects in levels
        for subject in subjects
        if (quota := own.get((level, str(subject))) or config().limits.get(level)) is not None
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
