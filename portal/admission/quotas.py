"""Rows that pilots pull → counted or parked, by the same limits and the same script as the gateway's.

A row over a limit that refills is parked, not failed; the control loop unparks it. Concurrency is no limit here:
how many rows run at once is the fleet's affair (decisions/0010). While Redis is away a row with a quota is parked
too: it is accepted, and counted before it runs. Whether a row is accepted at all is portal.acceptance's rule. No Django.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.accounts.callers import read_quotas
from portal.admission.redis_calls import numbers, run
from portal.admission.scripts import limit_arguments, of_limits
from portal.admission.subjects import Subjects, key_of
from portal.config import config
from portal.policy.limits import RATES, Level, Quota, Want, rate, wants

# A rate, and in how many seconds it lets a row in.
Refill = tuple[Want, float] | None
# Level, subject, and the quota of each that has one.
Concerning = Sequence[tuple[Level, str, Quota]]


def concerning(cur: Cursor, subjects: Subjects) -> Concerning:
    """Return the quotas that a request of these subjects is counted against."""
    return concerning_each(cur, [subjects])[subjects]


def concerning_each(cur: Cursor, of: Iterable[Subjects]) -> dict[Subjects, Concerning]:
    """Return the same of many, with one question."""
    many = set(of)
    quotas = read_quotas(cur, [subject for one in many for subject in one.each()])
    return {subjects: subjects.among(quotas, config().limits) for subjects in many}


def take(limits: Concerning, request: UUID, tokens: int) -> bool:
    """Take what the row needs of every rate, or nothing, and return whether it did. Raise redis.RedisError."""
    asked = wants(limits, RATES, tokens)
    return not asked or not run(of_limits("limit", *limit_arguments(str(request), asked)))[0]


def refill(cur: Cursor, subjects: Subjects, tokens: int, now: float) -> Refill:
    """Return the rate that lets a row of so many tokens in last, and in how many seconds; None without a rate.

    Take nothing. Raise redis.RedisError."""
    return refills_of(cur, {subjects: tokens}, now)[subjects]


def refills_of(cur: Cursor, rows: Mapping[Subjects, int], now: float) -> dict[Subjects, Refill]:
    """Return what `refill` says of each of many, with one question to PostgreSQL and one to Redis.

    Raise redis.RedisError."""
    limits = concerning_each(cur, rows)
    asked = {subjects: wants(limits[subjects], RATES, tokens) for subjects, tokens in rows.items()}
    buckets = sorted({key_of(want) for found in asked.values() for want in found})
    full_at = dict(zip(buckets, numbers(buckets), strict=True)) if buckets else {}
    waits = {
        subjects: [(want, rate(full_at[key_of(want)], want.limit, want.cost, now).retry_s) for want in found]
        for subjects, found in asked.items()
    }
    return {subjects: max(found, key=lambda wait: wait[1], default=None) for subjects, found in waits.items()}
