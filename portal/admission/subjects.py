"""Whom the limits of a request are asked of → the quota of each of them; and the error of one that refuses.

One rule for requests on a connection and for rows that pilots pull; no Django.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from portal.errors import ApiError
from portal.policy.limits import WORDS, Level, Quota, Want
from portal.redis import keys

PERMIT_S = 20.0  # a request that is counted (concurrent, queued) holds a permit, which its gateway renews

Quotas = Mapping[tuple[Level, str], Quota]


@dataclass(frozen=True, slots=True)
class Subjects:
    """The token, person, project and model whose quotas concern a request."""

    token: int | None
    user: int
    project: int
    model: str

    def each(self) -> list[tuple[Level, str]]:
        """Return them by level, as quotas are named."""
        token: list[tuple[Level, str]] = [] if self.token is None else [("token", str(self.token))]
        return [*token, ("user", str(self.user)), ("project", str(self.project)), ("model", self.model)]

    def among(self, quotas: Quotas, defaults: Mapping[str, Quota]) -> list[tuple[Level, str, Quota]]:
        """Return the quota of each of them that has one of its own or of the site's defaults."""
        return of_subjects(quotas, defaults, self.token, self.user, self.project, self.model)


def of_subjects(
    quotas: Quotas, defaults: Mapping[str, Quota], token: int | None, user: int, project: int, model: str
) -> list[tuple[Level, str, Quota]]:
    if not quotas and not defaults:
        return []
    subjects: list[tuple[Level, str]] = [("user", str(user)), ("project", str(project)), ("model", model)]
    if token is not None:
        subjects.insert(0, ("token", str(token)))
    found = []
    for level, subject in subjects:
        quota = quotas.get((level, subject)) or defaults.get(level)
        if quota is not None:
            found.append((level, subject, quota))
    return found


def key_of(want: Want) -> str:
    """Return the key under which Redis counts what this limit has given out."""
    return keys.LIMIT.of(want.level, want.subject, want.kind)


def over(want: Want, retry_s: float) -> ApiError:
    detail = f"{want.limit} {WORDS[want.kind]} of this {want.level}"
    return ApiError("rate_limit_exceeded", detail=detail, retry_after_s=max(1, math.ceil(retry_s)))
