"""What requests used over time, by model or by project, beside the limits that apply; on a page and as CSV.

A person's own, or, for managers, that of the projects they manage. The numbers are `portal.ledger.usage`'s sums, so a
page costs the same however many requests there were.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from portal import taken
from portal.accounts.models import ApiToken, Project, User
from portal.api import finding
from portal.api.access import caller, managed
from portal.dashboard.charts import COLOURS, Chart, Series, draw
from portal.dashboard.fragments import unchanged_is_304
from portal.dashboard.requests import WHOSE
from portal.gateway.policy.limits import WORDS
from portal.ledger import usage
from portal.ledger.usage import Step, Used
from portal.postgres import plain

OTHERS = "others"
MOST_TOKENS = 20  # whose limits are shown


@dataclass(frozen=True, slots=True)
class Span:
    text: str
    step: Step
    steps: int
    clock: str


SPANS = {
    "24h": Span("last 24 hours, by hour", "hour", 24, "%H:%M"),
    "7d": Span("last 7 days, by day", "day", 7, "%d %b"),
    "30d": Span("last 30 days, by day", "day", 30, "%d %b"),
}
SPLITS = {"model": "model", "project": "project"}
MEASURES: dict[str, Callable[[Used], float]] = {
    "Requests": lambda used: used.requests,
    "Tokens, in and out": lambda used: used.prompt_tokens + used.completion_tokens,
    "GPU-seconds": lambda used: used.gpu_s,
}


@dataclass(frozen=True, slots=True)
class Asked:
    """What the page is about. Words that it does not know are its usual ones."""

    whose: str
    span: str
    by: str


@dataclass(frozen=True, slots=True)
class Limit:
    of: str
    what: str
    allowed: int
    used: int | None


@login_required
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/usage.html", shown(request))


@unchanged_is_304
@login_required
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_usage.html", shown(request))


@never_cache
@login_required
def csv_rows(request: HttpRequest) -> HttpResponse:
    """The rows behind the charts, by model and project both."""
    user, asked = caller(request), _asked(request)
    rows, _ = _rows(user, asked, timezone.now())
    names = _names(rows)
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="berth-usage-{asked.span}.csv"'
    out = csv.writer(answer)
    out.writerow(
        ["utc", "project", "model", "requests", "failed", "prompt_tokens", "completion_tokens", "gpu_seconds"]
    )
    for row in rows:
        out.writerow(
            [f"{row.at:%Y-%m-%dT%H:%MZ}", names[row.project_id], row.model, row.requests, row.failed,
             row.prompt_tokens, row.completion_tokens, round(row.gpu_s, 1)]
        )  # fmt: skip
    return answer


def shown(request: HttpRequest) -> dict[str, Any]:
    user, asked = caller(request), _asked(request)
    rows, moments = _rows(user, asked, timezone.now())
    names = _names(rows)
    label = (lambda used: used.model) if asked.by == "model" else (lambda used: names[used.project_id])
    return {
        "asked": asked,
        "query": request.GET.urlencode(),
        "whose": [(word, WHOSE[word]) for word in _choices(user)],
        "spans": [(word, span.text) for word, span in SPANS.items()],
        "splits": SPLITS.items(),
        "totals": {
            name: sum(getattr(row, name) for row in rows)
            for name in ("requests", "failed", "prompt_tokens", "completion_tokens", "gpu_s")
        },
        "charts": _charts(rows, moments, label, SPANS[asked.span].clock),
        "limits": _limits(user),
    }


def _asked(request: HttpRequest) -> Asked:
    def one_of(name: str, known: Iterable[str]) -> str:
        words = list(known)
        said = request.GET.get(name, "")
        return said if said in words else words[0]

    return Asked(one_of("whose", _choices(caller(request))), one_of("span", SPANS), one_of("by", SPLITS))


def _choices(user: User) -> list[str]:
    """Not everybody's: that is a report over all of the sums, and no page."""
    return [word for word in finding.whose(user) if word != finding.EVERYBODY]


def _rows(user: User, asked: Asked, now: datetime) -> tuple[list[Used], list[datetime]]:
    """What was used, and the beginnings of the hours or days that are shown."""
    span = SPANS[asked.span]
    last = now.replace(minute=0, second=0, microsecond=0)
    last = last if span.step == "hour" else last.replace(hour=0)
    step = timedelta(hours=1) if span.step == "hour" else timedelta(days=1)
    moments = [last - step * n for n in reversed(range(span.steps))]
    with connection.cursor() as cur:
        if asked.whose == finding.MANAGED:
            return usage.of_projects(plain(cur), managed(user), moments[0], span.step), moments
        return usage.of_user(plain(cur), user.pk, moments[0], span.step), moments


def _names(rows: Iterable[Used]) -> dict[int, str]:
    ids = {row.project_id for row in rows}
    known = dict(Project.objects.filter(pk__in=ids).values_list("pk", "slug"))
    return {id_: known.get(id_, "gone") for id_ in ids}


def _charts(
    rows: list[Used], moments: list[datetime], label: Callable[[Used], str], clock: str
) -> list[Chart]:
    """One per measure; the same names have the same colour in each."""
    counted: Counter[str] = Counter()
    for row in rows:
        counted[label(row)] += row.requests
    names = [name for name, _ in counted.most_common(COLOURS)]
    if len(counted) > len(names):
        names.append(OTHERS)
    charts = []
    for title, measure in MEASURES.items():
        values: dict[tuple[str, datetime], float] = {}
        for row in rows:
            key = (label(row) if label(row) in names else OTHERS, row.at)
            values[key] = values.get(key, 0.0) + measure(row)
        series = [Series(name, [values.get((name, at), 0.0) for at in moments]) for name in names]
        charts.append(draw(title, "bars", moments, series, clock=clock))
    return charts


def _limits(user: User) -> list[Limit]:
    """Of the person's live tokens, of the person, and of their projects, which others use up, too."""
    tokens = dict(
        ApiToken.objects.filter(user=user, revoked_at=None, expires_at__gt=timezone.now())
        .order_by("-created_at")
        .values_list("pk", "name")[:MOST_TOKENS]
    )
    projects = dict(
        Project.objects.filter(membership__user=user, is_active=True)
        .order_by("slug")
        .values_list("pk", "slug")
    )
    told = {f"token:{pk}": f"token “{name}”" for pk, name in tokens.items()}
    told |= {f"project:{pk}": f"project {slug}, all members" for pk, slug in projects.items()}
    found = taken.standings(list(tokens), [user.pk], list(projects), time.time())
    return [
        Limit(
            told.get(f"{one.want.level}:{one.want.subject}", "you"),
            WORDS[one.want.kind],
            one.want.limit,
            one.used,
        )
        for one in found
    ]
