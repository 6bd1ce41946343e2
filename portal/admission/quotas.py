"""Rows that pilots pull → counted, parked or refused, by the same limits and the same script as the gateway's.

A row over a limit that refills is parked, not failed; the control loop unparks it. Concurrency is no limit here:
how many rows run at once is the fleet's affair (decisions/0010). While Redis is away a row with a quota is parked
too: it is accepted, and counted before it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from uuid import UUID

import redis
from django.db.models import Q

from portal.accounts.models import Quota as Row
from portal.admission.redis_calls import numbers, run
from portal.admission.scripts import limit_arguments, of_limits
from portal.admission.subjects import Quotas, key_of, of_subjects, over
from portal.config import config
from portal.ledger.models import Request
from portal.ledger.states import RequestState
from portal.policy.limits import RATES, Level, Quota, Want, rate, wants

logger = logging.getLogger(__name__)

_RETRY_S = 30

# A rate, and in how many seconds it lets a row in.
Refill = tuple[Want, float] | None


@dataclass(frozen=True, slots=True)
class Subjects:
    """The token, person, project and model whose quotas concern a row."""

    token: int | None
    user: int
    project: int
    model: str

    def quotas(self) -> list[tuple[Level, str, Quota]]:
        return self.among(_limits([self]))

    def among(self, found: Quotas) -> list[tuple[Level, str, Quota]]:
        return of_subjects(found, config().limits, self.token, self.user, self.project, self.model)

    def waiting(self, level: Level, most: int) -> int:
        """Return how many rows of this subject wait, counted up to `most`."""
        own = {
            "token": Q(token_id=self.token),
            "user": Q(user_id=self.user),
            "project": Q(project_id=self.project),
            "model": Q(model=self.model),
        }[level]
        waiting = (RequestState.QUEUED, RequestState.PARKED)
        return Request.objects.filter(own, state__in=waiting)[:most].count()


def enter(subjects: Subjects, request: UUID, tokens: int) -> str:
    """Return the state in which a new row is accepted: queued, or parked. Raise ApiError when too many wait."""
    quotas = subjects.quotas()
    for want in wants(quotas, ("queued",), 0):
        if subjects.waiting(want.level, want.limit) >= want.limit:
            raise over(want, _RETRY_S)
    try:
        return RequestState.QUEUED if take(quotas, request, tokens) else RequestState.PARKED
    except (redis.RedisError, OSError) as error:
        logger.warning("limits: %s; request %s is parked", error, request)
        return "parked"


def crowded(subjects: Subjects, lines: int, of_model: int) -> Want | None:
    """Return the limit of waiting rows that a batch of so many lines, `of_model` of them of the subjects' model, would
    pass."""
    for want in wants(subjects.quotas(), ("queued",), 0):
        more = of_model if want.level == "model" else lines
        if subjects.waiting(want.level, want.limit) + more > want.limit:
            return want
    return None


def refills(subjects: Subjects) -> bool:
    """Return whether any rate limits them."""
    return bool(wants(subjects.quotas(), RATES, 0))


def take(quotas: list[tuple[Level, str, Quota]], request: UUID, tokens: int) -> bool:
    """Take what the row needs of every rate, or nothing, and return whether it did. Raise redis.RedisError."""
    asked = wants(quotas, RATES, tokens)
    return not asked or not run(of_limits("limit", *limit_arguments(str(request), asked)))[0]


def refill(subjects: Subjects, tokens: int, now: float) -> Refill:
    """Return the rate that lets a row of so many tokens in last, and in how many seconds; None without a rate.

    Take nothing. Raise redis.RedisError."""
    return refills_of({subjects: tokens}, now)[subjects]


def refills_of(rows: Mapping[Subjects, int], now: float) -> dict[Subjects, Refill]:
    """Return what `refill` says of each of many, with one question to PostgreSQL and one to Redis."""
    quotas = _limits(rows)
    asked = {subjects: wants(subjects.among(quotas), RATES, tokens) for subjects, tokens in rows.items()}
    buckets = sorted({key_of(want) for found in asked.values() for want in found})
    full_at = dict(zip(buckets, numbers(buckets), strict=True)) if buckets else {}
    waits = {
        subjects: [(want, rate(full_at[key_of(want)], want.limit, want.cost, now).retry_s) for want in found]
        for subjects, found in asked.items()
    }
    return {subjects: max(found, key=lambda wait: wait[1], default=None) for subjects, found in waits.items()}


def _limits(of: Iterable[Subjects]) -> Quotas:
    """Return the quotas of any of them that have some of their own."""
    many = list(of)
    rows = Row.objects.filter(
        Q(token_id__in={one.token for one in many if one.token is not None})
        | Q(user_id__in={one.user for one in many})
        | Q(project_id__in={one.project for one in many})
        | Q(model__in={one.model for one in many})
    )
    return of_rows(rows)


def of_rows(rows: Iterable[Row]) -> Quotas:
    """Return the quotas of these rows by level and subject."""
    found: dict[tuple[Level, str], Quota] = {}
    for row in rows:
        level: Level = row.level  # type: ignore[assignment]
        subject = row.token_id or row.user_id or row.project_id or row.model
        found[level, str(subject)] = Quota(
            row.requests_per_min, row.tokens_per_min, row.concurrent, row.queued
        )
    return found
