"""What a user wants to know first: how ready each model is, and how the last requests fared."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from portal.accounts.models import Project, User
from portal.api.access import usable_models
from portal.api.residency import residency
from portal.catalog.models import Model
from portal.ledger.models import Request

LAST_REQUESTS = 20


@login_required
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/home.html", shown(request))


@login_required
def fragment(request: HttpRequest) -> HttpResponse:
    """The part of the page that changes, for its refresh."""
    return render(request, "dashboard/_home.html", shown(request))


def shown(request: HttpRequest) -> dict[str, Any]:
    user = request.user
    assert isinstance(user, User)
    mine = list(Project.objects.filter(membership__user=user, is_active=True).order_by("slug"))
    models = Model.objects.filter(usable_models(mine)).distinct().order_by("name")
    return {
        "projects": mine,
        "models": residency(models),
        "requests": Request.objects.filter(user_id=user.pk).order_by("-accepted_at")[:LAST_REQUESTS],
    }
