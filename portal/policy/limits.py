"""Limits as arithmetic: what a quota allows now, what is left of it, and when it is whole again. Pure.

Rates (requests and tokens per minute) are GCRA, a token bucket kept as one number: the theoretical arrival time,
at which the bucket is full again. Counts (concurrent, queued) are members of a set that expire, so that what a
gateway held when it died comes back. The rule runs in Redis (portal/admission/lua/limit.lua), where looking at every
level and taking from each are one step; this is its plain statement, and a property test holds the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

PERIOD_S = 60.0
# Times are UNIX seconds: a double keeps less than a microsecond of them.
ROUNDING_S = 1e-4

Level = Literal["token", "user", "project", "model"]
Kind = Literal["requests", "tokens", "concurrent", "queued"]
LEVELS: tuple[Level, ...] = ("token", "user", "project", "model")
RATES: tuple[Kind, ...] = ("requests", "tokens")
COUNTS: tuple[Kind, ...] = ("concurrent", "queued")
KINDS = RATES + COUNTS
WORDS: dict[Kind, str] = {
    "requests": "requests per minute",
    "tokens": "tokens per minute",
    "concurrent": "concurrent requests",
    "queued": "queued requests",
}


@dataclass(frozen=True, slots=True)
class Quota:
    """The limits of one subject; None is no limit."""

    requests: int | None = None  # per minute
    tokens: int | None = None  # per minute
    concurrent: int | None = None
    queued: int | None = None

    def of(self, kind: Kind) -> int | None:
        value: int | None = getattr(self, kind)
        return value


class QuotaError(ValueError):
    """The error that a text names no limit: what it holds and what to write."""


def default_quotas(texts: Sequence[str]) -> Mapping[str, Quota]:
    """Return quotas by level, of texts like `project.requests=600`. Raise QuotaError."""
    found: dict[str, Quota] = {}
    for part in texts:
        name, _, value = part.strip().partition("=")
        level, _, kind = name.partition(".")
        if level not in LEVELS or kind not in KINDS or not value.isdecimal() or int(value) < 1:
            raise QuotaError(
                f"holds {part.strip()!r}; write level.kind=number with a level of {', '.join(LEVELS)} and "
                f"a kind of {', '.join(KINDS)}"
            )
        found[level] = replace(found.get(level, Quota()), **{kind: int(value)})
    return found


@dataclass(frozen=True, slots=True)
class Want:
    """The `cost` that one limit of one subject is asked for: tokens, or 1 request."""

    level: Level
    subject: str
    kind: Kind
    limit: int
    cost: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """The answer of a bucket. `full_at`: its number after this. `reset_s`: until it is full. `retry_s`: > 0 = refused."""

    full_at: float
    remaining: int
    reset_s: float
    retry_s: float


def rate(full_at: float | None, limit: int, cost: int, now: float) -> Verdict:
    """Take `cost` from a bucket of `limit` that refills in a minute. One that asks for more than the whole bucket
    takes the whole bucket: else it could never run."""
    unit_s = PERIOD_S / limit
    start = max(full_at if full_at is not None else now, now)
    after = start + min(cost, limit) * unit_s
    retry_s = after - now - PERIOD_S
    if retry_s > ROUNDING_S:
        return Verdict(start, _left(start, unit_s, now), start - now, retry_s)
    return Verdict(after, _left(after, unit_s, now), after - now, 0.0)


def settled(full_at: float | None, limit: int, more: int, now: float) -> float:
    """Return the bucket once the real cost is known: `more` than was taken, or less. A debt delays what comes next."""
    return max(full_at if full_at is not None else now, now) + more * (PERIOD_S / limit)


def wants(quotas: Sequence[tuple[Level, str, Quota]], kinds: Sequence[Kind], tokens: int) -> tuple[Want, ...]:
    """Return everything that the quotas have to say on these kinds."""
    return tuple(
        Want(level, subject, kind, limit, tokens if kind == "tokens" else 1)
        for level, subject, quota in quotas
        for kind in kinds
        if (limit := quota.of(kind)) is not None
    )


def duration(seconds: float) -> str:
    """Return a duration as OpenAI writes it: 6m0s, 1.5s, 20ms."""
    if seconds < 1:
        return f"{math.ceil(seconds * 1000)}ms"
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".") + "s"
    whole = math.ceil(seconds)
    return f"{whole // 60}m{whole % 60}s"


def _left(full_at: float, unit_s: float, now: float) -> int:
    return max(0, math.floor((PERIOD_S - (full_at - now) + ROUNDING_S) / unit_s))
