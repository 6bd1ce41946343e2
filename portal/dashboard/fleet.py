"""What operators see: whether Slurm answers, pilots and replicas, decisions with reasons; and their commands."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from portal.accounts.models import User
from portal.api.commanding import Wish, give
from portal.api.fleet import recent_pilots
from portal.api.standing import standing
from portal.catalog.models import Pool
from portal.fleet.models import Cluster, Command, Decision, FleetEvent, Pilot, PilotLog, Replica

LAST_DECISIONS = 30
LAST_COMMANDS = 10
MOST_PILOTS = 100

View = Callable[..., HttpResponse]


def operators_only(view: View) -> View:
    @wraps(view)
    @login_required
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not operator(request).operates:
            raise PermissionDenied("Only operators see the fleet.")
        return view(request, *args, **kwargs)

    return guarded


def operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@operators_only
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/fleet.html", shown())


@operators_only
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_fleet.html", shown())


@operators_only
def pilot(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/pilot.html", shown_pilot(id))


@operators_only
def pilot_fragment(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/_pilot.html", shown_pilot(id))


@operators_only
@require_POST
def command(request: HttpRequest) -> HttpResponse:
    """One button: writes the command and goes back to where it stood."""
    post = request.POST
    try:
        wish = Wish(
            post.get("kind", ""),
            pilot=_target(Pilot, post.get("pilot")),
            replica=_target(Replica, post.get("replica")),
            pool=_target(Pool, post.get("pool")),
        )
        given = give(wish, operator(request))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(
            request,
            f"Command {given.pk} ({given.kind}) is written; the control loop carries it out at its next tick.",
        )
    back = post.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
        back = "fleet"
    return redirect(back)


def _target(table: type[Any], key: str | None) -> Any:
    """The row named by a button, or None where the button names none. Raises ValidationError for a strange key."""
    return get_object_or_404(table, pk=key) if key else None


def shown() -> dict[str, Any]:
    now = timezone.now()
    return {
        "clusters": [(row, standing(row, now)) for row in Cluster.objects.order_by("name")],
        "pilots": recent_pilots(now)[:MOST_PILOTS],
        "pools": Pool.objects.select_related("state").order_by("name"),
        "decisions": Decision.objects.order_by("-id")[:LAST_DECISIONS],
        "commands": Command.objects.select_related("created_by", "pilot", "replica").order_by("-id")[
            :LAST_COMMANDS
        ],
    }


def shown_pilot(id: UUID) -> dict[str, Any]:
    row = get_object_or_404(Pilot.objects.select_related("profile"), pk=id)
    return {
        "pilot": row,
        "replicas": row.replicas.order_by("wanted_at"),
        "log": PilotLog.objects.filter(pilot=row).first(),
        "decisions": Decision.objects.filter(pilot=row.id).order_by("-id")[:LAST_DECISIONS],
        "events": FleetEvent.objects.filter(pilot=row.id).order_by("-id")[:LAST_DECISIONS],
    }
