"""Who waits for what, for operators: by model and project, in which lane, how long, and what is parked and why."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import redis
from django.db import connection
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from gpuworker.wire import estimate_at
from portal.accounts.models import Project
from portal.admission import quotas
from portal.admission.subjects import Subjects
from portal.dashboard.fleet import operators_only
from portal.dashboard.fragments import unchanged_is_304
from portal.db.connections import plain
from portal.fleet.phase import Phase
from portal.fleet.phases import read_phases
from portal.fleet.times import span
from portal.ledger import lines
from portal.ledger.lines import Line, Parked
from portal.policy import estimate
from portal.policy.limits import WORDS

MOST_LINES = 50


@dataclass(frozen=True, slots=True)
class Row:
    line: Line
    project: str
    why_parked: str


@dataclass(frozen=True, slots=True)
class Group:
    """One model, and who waits for it. `phase` is None where it has left the catalog."""

    model: str
    phase: Phase | None
    rows: list[Row]


@operators_only
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/queue.html", shown(request))


@unchanged_is_304
@operators_only
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_queue.html", shown(request))


def shown(request: HttpRequest) -> dict[str, Any]:
    """Return the rows that have waited longest, of those that are looked for."""
    now, find = time.time(), request.GET.get("find", "").strip()
    with connection.cursor() as cur:
        found, depth = lines.lines(plain(cur)), lines.depths(plain(cur))
        wanted = _named(found, find) if find else found
        cut = wanted[:MOST_LINES]
        over = [line for line in cut if line.parked]
        parked = lines.first_parked(plain(cur), over) if over else []
        phases = read_phases(plain(cur), now, sorted({line.pool for line in cut}))
    names = dict(Project.objects.filter(pk__in={line.project_id for line in cut}).values_list("pk", "slug"))
    why = _why_parked(parked, now)
    groups: dict[str, Group] = {}
    for line in cut:
        phase = phases.get(line.pool)
        group = groups.setdefault(
            line.model, Group(line.model, phase.named(line.model) if phase else None, [])
        )
        key = line.project_id, line.model
        group.rows.append(
            Row(line, names.get(line.project_id, "(deleted)"), why.get(key, "") if line.parked else "")
        )
    return {
        "depth": depth,
        "groups": list(groups.values()),
        "left_out": len(wanted) - len(cut),
        "find": find,
        "query": request.GET.urlencode(),
        "uncounted": lines.uncounted(depth),
        "most": lines.MOST_COUNTED,
    }


def _named(found: list[Line], find: str) -> list[Line]:
    """Return the rows whose model or project has `find` in its name."""
    projects = set(Project.objects.filter(slug__icontains=find).values_list("pk", flat=True))
    return [line for line in found if find.lower() in line.model.lower() or line.project_id in projects]


def _why_parked(parked: list[Parked], now: float) -> dict[tuple[int, str], str]:
    """Return, by project and model, which quota holds the request that resumes first, and when it has room."""
    subjects = {
        (row.project_id, row.model): Subjects(row.token_id, row.user_id, row.project_id, row.model)
        for row in parked
    }
    tokens = {
        subjects[row.project_id, row.model]: estimate.of_row(row.length, None, estimate_at(row.api))
        for row in parked
    }
    try:
        with connection.cursor() as cur:
            refills = quotas.refills_of(plain(cur), tokens, now)
    except (redis.RedisError, OSError):
        return dict.fromkeys(subjects, "the state of its quotas is unknown: Redis does not answer")
    return {key: _words(refills[one]) for key, one in subjects.items()}


def _words(refill: quotas.Refill) -> str:
    if refill is None:
        return "no quota applies any more; it resumes now"
    want, wait_s = refill
    when = f"it resumes in {span(wait_s)}" if wait_s > 0 else "it resumes now"
    return f"over the limit of {want.limit} {WORDS[want.kind]} of its {want.level}; {when}"
