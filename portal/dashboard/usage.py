"""What requests used over time, by model or by project, beside the limits that apply; on a page and as CSV.

A person's own; for managers, that of the projects they manage; for operators, everybody's, also by person. The numbers
are `portal.ledger.usage`'s sums, so a page costs the same however many requests there were.
"""

from __future__ import annotations

import csv
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

from django.contrib.auth.decorators import login_required
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.cache import never_cache

from portal.accounts.models import ApiToken, Project, User
from portal.admission import consumption
from portal.dashboard.axes import Of
from portal.dashboard.charts import COLOURS, REST, Chart, Series, draw
from portal.dashboard.fragments import unchanged_is_304
from portal.dashboard.requests import WHOSE
from portal.db.connections import plain
from portal.ledger import usage
from portal.ledger.usage import Kind, Step, Total, Used
from portal.policy.limits import WORDS
from portal.services import request_search
from portal.services.access import caller, managed

Word = TypeVar("Word", bound=str)
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
SPLITS: dict[Kind, str] = {"model": "model", "project": "project"}
SPLITS_OF_ALL: dict[Kind, str] = {**SPLITS, "user": "user"}
# Columns of the CSV, which programs read: they keep their names.
CSV_NAMES: dict[Kind, str] = {"model": "model", "project": "project", "user": "person"}
NUMBERS = ("requests", "failed", "prompt_tokens", "completion_tokens", "gpu_s")
HEADS = ("requests", "failed", "prompt_tokens", "completion_tokens", "gpu_seconds")
MEASURES: dict[str, tuple[Of, Callable[[Used | Total], float]]] = {
    "Requests": ("counts", lambda used: used.requests),
    "Tokens (input and output)": ("counts", lambda used: used.prompt_tokens + used.completion_tokens),
    "GPU-seconds": ("numbers", lambda used: used.gpu_s),
}


@dataclass(frozen=True, slots=True)
class Asked:
    """The choices that a person made on the page. Unknown words are the first choice."""

    whose: str
    span: str
    by: Kind


@dataclass(frozen=True, slots=True)
class LimitInUse:
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
    """Send the rows behind the charts, by model and project both; everybody's by what was chosen, nobody left out."""
    user, asked = caller(request), _asked(request)
    answer = HttpResponse(content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="berth-usage-{asked.span}.csv"'
    out = csv.writer(answer)
    begin, span = _moments(asked, timezone.now())[0], SPANS[asked.span]
    if asked.whose == request_search.EVERYBODY:
        with connection.cursor() as cur:
            totals = usage.every_name(plain(cur), asked.by, begin, span.step)
        known = _known(asked.by, {row.name for row in totals if row.name is not None})
        out.writerow(["utc", CSV_NAMES[asked.by], *HEADS])
        out.writerows([_utc(row), known[row.name or ""], *_numbers(row)] for row in totals)
    else:
        rows = _rows(user, asked, begin)
        names = _names(rows)
        out.writerow(["utc", "project", "model", *HEADS])
        out.writerows([_utc(row), names[row.project_id], row.model, *_numbers(row)] for row in rows)
    return answer


def _utc(row: Used | Total) -> str:
    return f"{row.at:%Y-%m-%dT%H:%MZ}"


def _numbers(row: Used | Total) -> list[float]:
    return [row.requests, row.failed, row.prompt_tokens, row.completion_tokens, round(row.gpu_s, 1)]


def shown(request: HttpRequest) -> dict[str, Any]:
    user, asked = caller(request), _asked(request)
    moments = _moments(asked, timezone.now())
    named: Sequence[tuple[str, Used | Total]]
    if asked.whose == request_search.EVERYBODY:
        named = _totals(asked, moments[0])
    else:
        rows = _rows(user, asked, moments[0])
        names = _names(rows)
        named = [(row.model if asked.by == "model" else names[row.project_id], row) for row in rows]
    return {
        "asked": asked,
        "query": request.GET.urlencode(),
        "whose": [(word, WHOSE[word]) for word in request_search.whose(user)],
        "spans": [(word, span.text) for word, span in SPANS.items()],
        "splits": (
            SPLITS_OF_ALL if request_search.EVERYBODY in request_search.whose(user) else SPLITS
        ).items(),
        "totals": {name: sum(getattr(row, name) for _, row in named) for name in NUMBERS},
        "charts": _charts(named, moments, SPANS[asked.span].clock),
        "limits": _limits(user),
    }


def _asked(request: HttpRequest) -> Asked:
    def one_of(name: str, known: Iterable[Word]) -> Word:
        words = list(known)
        said = request.GET.get(name, "")
        return next((word for word in words if word == said), words[0])

    whose = one_of("whose", request_search.whose(caller(request)))
    splits = SPLITS_OF_ALL if whose == request_search.EVERYBODY else SPLITS
    return Asked(whose, one_of("span", SPANS), one_of("by", splits))


def _moments(asked: Asked, now: datetime) -> list[datetime]:
    """Return the beginnings of the hours or days that are shown."""
    span = SPANS[asked.span]
    last = now.replace(minute=0, second=0, microsecond=0)
    last = last if span.step == "hour" else last.replace(hour=0)
    step = timedelta(hours=1) if span.step == "hour" else timedelta(days=1)
    return [last - step * n for n in reversed(range(span.steps))]


def _rows(user: User, asked: Asked, begin: datetime) -> list[Used]:
    step = SPANS[asked.span].step
    with connection.cursor() as cur:
        if asked.whose == request_search.MANAGED:
            return usage.of_projects(plain(cur), managed(user), begin, step)
        return usage.of_user(plain(cur), user.pk, begin, step)


def _totals(asked: Asked, begin: datetime) -> list[tuple[str, Total]]:
    with connection.cursor() as cur:
        rows = usage.of_everybody(plain(cur), asked.by, COLOURS, begin, SPANS[asked.span].step)
    known = _known(asked.by, {row.name for row in rows if row.name is not None})
    return [(OTHERS if row.name is None else known[row.name], row) for row in rows]


def _known(kind: Kind, names: set[str]) -> dict[str, str]:
    """Return what people read for a name in the totals."""
    if kind == "model":
        return {name: name for name in names}
    ids = [int(name) for name in names]
    if kind == "project":
        found = dict(Project.objects.filter(pk__in=ids).values_list("pk", "slug"))
    else:
        found = dict(User.objects.filter(pk__in=ids).values_list("pk", "username"))
    return {name: found.get(int(name), "(deleted)") for name in names}


def _names(rows: Iterable[Used]) -> dict[int, str]:
    ids = {row.project_id for row in rows}
    known = dict(Project.objects.filter(pk__in=ids).values_list("pk", "slug"))
    return {id_: known.get(id_, "(deleted)") for id_ in ids}


def _charts(rows: Sequence[tuple[str, Used | Total]], moments: list[datetime], clock: str) -> list[Chart]:
    """Return one chart per measure; the same names have the same colour in each."""
    counted: Counter[str] = Counter()
    for name, row in rows:
        counted[name] += row.requests
    rest = counted.pop(OTHERS, 0)
    names = [name for name, _ in counted.most_common(COLOURS)]
    if len(counted) > len(names) or rest:
        names.append(OTHERS)
    together: dict[tuple[str, datetime], list[Used | Total]] = defaultdict(list)
    for name, row in rows:
        together[name if name in names else OTHERS, row.at].append(row)
    charts = []
    for title, (of, measure) in MEASURES.items():
        series = [
            Series(
                name,
                [sum(map(measure, together.get((name, at), ()))) for at in moments],
                REST if name == OTHERS else "",
            )
            for name in names
        ]
        charts.append(draw(title, "bars", moments, series, of=of, clock=clock))
    return charts


def _limits(user: User) -> list[LimitInUse]:
    """Return the limits of the person's live tokens, of the person, and of their projects, which others use up, too."""
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
    found = consumption.of(list(tokens), [user.pk], list(projects), time.time())
    return [
        LimitInUse(
            told.get(f"{one.want.level}:{one.want.subject}", "your account"),
            WORDS[one.want.kind],
            one.want.limit,
            one.used,
        )
        for one in found
    ]
