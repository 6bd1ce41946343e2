"""A chat with a model in the browser. The page asks the gateway itself, as any client does, with a token of its own
that lives an hour (decisions/0014); what is said stays in the window and comes by no view here.
"""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse, JsonResponse
from django.shortcuts import get_object_or_404, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from portal.accounts.issue import BRIEF, issue_brief_token, revoke_brief
from portal.accounts.models import Project, User
from portal.catalog.models import Model
from portal.dashboard.templatetags.berth import STATES
from portal.fleet.residency import residency, soonest
from portal.services import access
from portal.services.access import caller

NAME = "Playground"
MOST_MODELS = 200  # to choose from; the models' page leads here with any of them


@login_required
def page(request: HttpRequest) -> HttpResponse:
    user = caller(request)
    projects = list(Project.objects.filter(membership__user=user, is_active=True).order_by("slug"))
    asked = request.GET.get("project", "")
    project = next((row for row in projects if row.slug == asked), None) or next(iter(projects), None)
    mine = access.usable_models([project] if project else [])
    chats = Model.objects.filter(mine, kind=Model.Kind.LLM).distinct().order_by("name")
    wanted = request.GET.get("model", "")
    offered = list(chats[:MOST_MODELS])
    if all(model.name != wanted for model in offered):
        offered += chats.filter(name=wanted)
    rows = residency(offered)
    if all(row.model.name != wanted for row in rows):
        first = soonest(rows)
        wanted = first.model.name if first else ""
    context = {
        "projects": projects,
        "project": project,
        "models": [(row.model.name, STATES[row.phase.residency][2]) for row in rows],
        "asked": wanted,
    }
    return render(request, "dashboard/playground.html", context)


@never_cache
@login_required
@require_POST
def token(request: HttpRequest) -> HttpResponse:
    """Issue a token for this window. The answer is the only place where its text is."""
    user = caller(request)
    project = get_object_or_404(
        Project, slug=request.POST.get("project", ""), membership__user=user, is_active=True
    )
    try:
        _, minted = issue_brief_token(user, project, NAME)
    except ValidationError as refusal:
        return JsonResponse({"error": {"message": " ".join(refusal.messages)}}, status=422)
    return JsonResponse({"token": minted.text, "expires_in_s": int(BRIEF.total_seconds())})


def forget(sender: Any, user: Any, **_: Any) -> None:
    """End what the pages of a person held, when that person logs out."""
    if isinstance(user, User):
        revoke_brief(user)
