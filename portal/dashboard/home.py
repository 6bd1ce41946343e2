"""What a user wants to know first: which models there are, how ready each is, and how a program uses one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db.models import Max, Min, Q, QuerySet
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.http import require_POST

from portal.accounts.models import Project, User
from portal.catalog.models import Model, Profile
from portal.dashboard.fragments import unchanged_is_304
from portal.errors import ApiError
from portal.fleet.models import Command
from portal.fleet.phase import Phase
from portal.fleet.residency import residency, soonest
from portal.notices import wishes
from portal.services import access, registration
from portal.services.access import caller
from portal.services.commands import NewCommand, give

MOST_MODELS = 50


@dataclass(frozen=True, slots=True)
class Line:
    """One model as the page shows it. `cost`: of a GPU hour on its cheapest profile, 1 being that of the site's
    cheapest one; None where all cost the same, or it has none."""

    model: Model
    phase: Phase
    gpus: int
    cost: float | None


@login_required
def page(request: HttpRequest) -> HttpResponse:
    told = shown(request)
    asked = request.GET.get("use", "")
    if asked and _usable(told["projects"]).filter(name=asked).exists():
        use = asked
    else:
        first = soonest(told["models"])
        use = first.model.name if first else ""
    told |= {"use": use, "asked": asked == use and bool(use), "base_url": request.build_absolute_uri("/v1")}
    told["may_register"] = registration.may_register(caller(request))
    return render(request, "dashboard/home.html", told)


@unchanged_is_304
@login_required
def fragment(request: HttpRequest) -> HttpResponse:
    """Show the part of the page that changes, for its refresh."""
    return render(request, "dashboard/_home.html", shown(request))


@login_required
@require_POST
def wake(request: HttpRequest, name: str) -> HttpResponse:
    """Ask for the model to be made ready, as the API does."""
    user = caller(request)
    try:
        model = access.model_for(name, _projects(user))
    except ApiError:
        raise Http404 from None
    give(NewCommand(Command.Kind.WAKE, pool=model.pool), user)
    messages.success(request, f"{model.name} will be started; this page shows its progress.")
    if request.POST.get("notify"):
        if wishes.wish(user, model.name):
            messages.success(request, "You will be notified when it is ready.")
        else:
            messages.info(request, wishes.NO_WAY)
    return redirect("home")


def shown(request: HttpRequest) -> dict[str, Any]:
    mine = _projects(caller(request))
    find, after = request.GET.get("find", "").strip(), request.GET.get("after", "")
    models = _usable(mine)
    if find:
        models = models.filter(Q(name__icontains=find) | Q(description__icontains=find))
    if after:
        models = models.filter(name__gt=after)
    page = list(models.select_related("pool").prefetch_related("pool__profiles")[: MOST_MODELS + 1])
    costs = Profile.objects.filter(enabled=True).aggregate(least=Min("cost"), most=Max("cost"))
    more = request.GET.copy()
    more["after"] = page[MOST_MODELS - 1].name if len(page) > MOST_MODELS else ""
    return {
        "projects": mine,
        "models": [_line(row.model, row.phase, costs) for row in residency(page[:MOST_MODELS])],
        "find": find,
        "many": bool(find or after or more["after"]),
        "more": more.urlencode() if more["after"] else "",
        "query": request.GET.urlencode(),
    }


def _usable(mine: list[Project]) -> QuerySet[Model]:
    return Model.objects.filter(access.usable_models(mine)).distinct().order_by("name")


def _line(model: Model, phase: Phase, costs: dict[str, float | None]) -> Line:
    least, own = costs["least"], [row.cost for row in model.pool.profiles.all() if row.enabled]
    differs = least is not None and least != costs["most"] and bool(own)
    return Line(
        model, phase, model.pool.gpus * model.pool.nodes, min(own) / least if differs and least else None
    )


def _projects(user: User) -> list[Project]:
    return list(Project.objects.filter(membership__user=user, is_active=True).order_by("slug"))
