"""Getting started, with the reader's own base URL and a model that the reader may use: examples work as pasted."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from portal.accounts.models import Project, User
from portal.catalog.models import Model
from portal.services.access import usable_models


@login_required
def page(request: HttpRequest) -> HttpResponse:
    user = request.user
    assert isinstance(user, User)
    mine = list(Project.objects.filter(membership__user=user, is_active=True))
    first = Model.objects.filter(usable_models(mine), kind=Model.Kind.LLM).order_by("name").first()
    context = {
        "base_url": request.build_absolute_uri("/v1"),
        "model": first.name if first is not None else "",
        "is_member": bool(mine),
    }
    return render(request, "dashboard/help.html", context)
