"""The requests that a person may see, as a list and one by one: where its time went, why it waits, its result.

Managers see the metadata of their projects' requests, operators everybody's. A result is its owner's alone.
"""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.http import require_POST

from portal.accounts.models import Project, User
from portal.catalog.models import Model
from portal.config import config
from portal.dashboard.bar import bar
from portal.dashboard.fragments import unchanged_is_304
from portal.ledger.models import Request, RequestEvent
from portal.ledger.states import REQUEST_ENDED, Lane, RequestState
from portal.services import access, request_search, request_story
from portal.services.access import caller
from portal.services.cancellation import cancel as cancel_row
from portal.services.request_wait import why

MOST_RESULT_CHARS = 20_000
MOST_EVENTS = 50
# Tells htmx to ask no more: what has ended does not change.
STOP_POLLING = 286
WHOSE = {
    request_search.MINE: "mine",
    request_search.MANAGED: "projects that I manage",
    request_search.EVERYBODY: "all users",
}
LANES = {Lane.HELD: "interactive", Lane.ASYNC: "background", Lane.BATCH: "batch"}
STEPS = {
    "accepted": "Accepted",
    "job_submitted": "Slurm job submitted",
    "job_running": "Slurm job started",
    "registered": "Worker registered",
    "engine_started": "Engine started loading the model",
    "engine_ready": "Model ready",
    "granted": "Sent to the engine",
    "first_token": "First token",
    "done": "Ended",
}
# What the code says of an event → what people read.
SAYS = {"client_left": "the client disconnected"}


@login_required
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/requests.html", shown(request))


@unchanged_is_304
@login_required
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_requests.html", shown(request))


@login_required
def one(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/request.html", shown_one(caller(request), id))


@unchanged_is_304
@login_required
def one_fragment(request: HttpRequest, id: UUID) -> HttpResponse:
    told = shown_one(caller(request), id)
    return render(request, "dashboard/_request.html", told, status=STOP_POLLING if told["ended"] else 200)


@login_required
@require_POST
def cancel(request: HttpRequest, id: UUID) -> HttpResponse:
    user = caller(request)
    row = _visible(user, id)
    if cancel_row(row, f"cancelled by {'its owner' if row.user_id == user.pk else user.username}"):
        messages.success(request, "The request is cancelled.")
    else:
        row.refresh_from_db()
        messages.error(request, f"The request has already ended: it is {row.state}.")
    return redirect("request", id)


def shown(request: HttpRequest) -> dict[str, Any]:
    user = caller(request)
    asked = {name: request.GET.get(name, "").strip() for name in request_search.FILTERS}
    error, found = "", request_search.RequestPage([], "")
    try:
        found = request_search.page(
            request_search.requests(asked, user, timezone.now()), request.GET.get("before", "")
        )
    except ValidationError as refusal:
        error = " ".join(refusal.messages)
    older = request.GET.copy()
    older["before"] = found.older
    others = asked["whose"] not in ("", request_search.MINE)
    projects = dict(
        Project.objects.filter(pk__in={r.project_id for r in found.rows}).values_list("pk", "slug")
    )
    people = User.objects.filter(pk__in={row.user_id for row in found.rows}) if others else ()
    names = {person.pk: person.username for person in people}
    return {
        "asked": asked,
        "error": error,
        "others": others,
        "rows": [
            (row, projects.get(row.project_id, "(deleted)"), names.get(row.user_id, "(deleted)"))
            for row in found.rows
        ],
        "older": older.urlencode() if found.older else "",
        "looked_to": found.looked_to,
        "first": "before" not in request.GET,
        "query": request.GET.urlencode(),
        "whose": [(word, WHOSE[word]) for word in request_search.whose(user)],
        "states": [*RequestState],
        "lanes": [(lane.value, text) for lane, text in LANES.items()],
        "models": Model.objects.order_by("name").filter(_known_models(user)).distinct()[:500],
        "projects": Project.objects.filter(membership__user=user).order_by("slug"),
    }


def shown_one(user: User, id: UUID) -> dict[str, Any]:
    row = _visible(user, id)
    mine = row.user_id == user.pk
    place = request_story.position(row)
    told = request_story.timeline_of(row)
    now = timezone.now()
    project = Project.objects.filter(pk=row.project_id).first()
    owner = User.objects.filter(pk=row.user_id).first()
    return {
        "row": row,
        "mine": mine,
        "ended": row.state in REQUEST_ENDED,
        "project": project.slug if project else "(deleted)",
        "owner": owner.username if owner else "(deleted)",
        "lane": LANES[Lane(row.lane)],
        "place": place,
        "why": why(row, place),
        "bar": bar(told, now),
        "told": told,
        "steps": [(STEPS[step], at) for step, at in told.times.items() if at is not None],
        "events": [
            (event.at, event.kind, SAYS.get(event.detail, event.detail))
            for event in RequestEvent.objects.filter(request_id=row.id).order_by("id")[:MOST_EVENTS]
        ],
        "result": _result(row) if mine else None,
        "keep_days": config().result_keep_days,
    }


def _result(row: Request) -> dict[str, Any] | None:
    """Return the text of the response, where it has some, and the whole of it; None where none is kept."""
    kept = request_story.result(row)
    if kept is None:
        return None
    whole = kept if isinstance(kept, str) else json.dumps(kept, indent=2, ensure_ascii=False)
    return {
        "words": _words(kept)[:MOST_RESULT_CHARS],
        "whole": whole[:MOST_RESULT_CHARS],
        "cut": len(whole) > MOST_RESULT_CHARS,
    }


def _words(kept: Any) -> str:
    """Return the text of a chat or a completion; "" for everything else."""
    try:
        choice = kept["choices"][0]
        words = choice["message"]["content"] if "message" in choice else choice["text"]
    except (TypeError, KeyError, IndexError):
        return ""
    return words if isinstance(words, str) else ""


def _visible(user: User, id: UUID) -> Request:
    """Return the request. Raise Http404 for one that does not exist and for one that the person may not see, alike."""
    row = Request.objects.filter(pk=id).first()
    if row is None or not access.sees(user, row):
        raise Http404
    return row


def _known_models(user: User) -> Any:
    return access.usable_models(list(Project.objects.filter(membership__user=user, is_active=True)))
