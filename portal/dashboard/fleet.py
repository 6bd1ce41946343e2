"""What operators see: whether Slurm answers, pilots and replicas, decisions with reasons; and their commands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import wraps
from typing import Any
from uuid import UUID

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.db import connection
from django.db.models import Case, Exists, OuterRef, Q, QuerySet, When
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import url_has_allowed_host_and_scheme
from django.views.decorators.http import require_POST

from portal.accounts.models import User
from portal.catalog.models import Pool
from portal.dashboard.fragments import unchanged_is_304
from portal.db.connections import plain
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import (
    Cluster,
    Command,
    Decision,
    FleetEvent,
    Pilot,
    PilotLog,
    ProfileState,
    Replica,
)
from portal.fleet.phases import read_phases
from portal.fleet.states import REPLICA_ENDED
from portal.fleet.times import until
from portal.services import decision_search, targets
from portal.services.cluster_state import cluster_health, unknown_jobs
from portal.services.commands import NewCommand, give
from portal.services.recent_pilots import recent_pilots

LAST_DECISIONS = 30
LAST_COMMANDS = 10
MOST_DECISIONS = 100
MOST_PILOTS = 25
MOST_POOLS = 25

View = Callable[..., HttpResponse]


def operators_only(view: View) -> View:
    @wraps(view)
    @login_required
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not operator(request).operates:
            raise PermissionDenied("Only operators may see the fleet.")
        return view(request, *args, **kwargs)

    return guarded


def operator(request: HttpRequest) -> User:
    assert isinstance(request.user, User)
    return request.user


@operators_only
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/fleet.html", shown(request))


@unchanged_is_304
@operators_only
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_fleet.html", shown(request))


@operators_only
def pilot(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/pilot.html", shown_pilot(id))


@unchanged_is_304
@operators_only
def pilot_fragment(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/_pilot.html", shown_pilot(id))


@operators_only
def decided(request: HttpRequest) -> HttpResponse:
    """Show the decisions about the fleet, by model, pilot, kind and time."""
    return render(request, "dashboard/decisions.html", shown_decided(request))


@unchanged_is_304
@operators_only
def decided_fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_decided.html", shown_decided(request))


def shown_decided(request: HttpRequest) -> dict[str, Any]:
    asked = {name: request.GET.get(name, "").strip() for name in decision_search.FILTERS}
    try:
        rows, error = decision_search.decisions(asked, timezone.now()), ""
        if (before := request.GET.get("before", "")).isdecimal():
            rows = rows.filter(pk__lt=int(before))
    except ValidationError as refusal:
        rows, error = Decision.objects.none(), " ".join(refusal.messages)
    found = list(decision_search.with_jobs(rows)[: MOST_DECISIONS + 1])
    older = request.GET.copy()
    if len(found) > MOST_DECISIONS:
        older["before"] = str(found[MOST_DECISIONS - 1].pk)
    return {
        "asked": asked,
        "kinds": [kind.value for kind in DecisionKind],
        "pools": Pool.objects.order_by("name").values_list("name", flat=True),
        "error": error,
        "decisions": found[:MOST_DECISIONS],
        "older": older.urlencode() if len(found) > MOST_DECISIONS else "",
        "first": "before" not in request.GET,
        "query": request.GET.urlencode(),
    }


@operators_only
@require_POST
def command(request: HttpRequest) -> HttpResponse:
    """Write the command of one button, and go back to where the button stood."""
    post = request.POST
    try:
        wish = NewCommand(
            post.get("kind", ""),
            pilot=targets.pilot(post["pilot"]) if post.get("pilot") else None,
            replica=targets.replica(post["replica"]) if post.get("replica") else None,
            pool=targets.pool(post["pool"]) if post.get("pool") else None,
            args={name: post[name] for name in ("profile", "job_id", "cluster") if post.get(name)},
        )
        given = give(wish, operator(request))
    except ValidationError as error:
        messages.error(request, " ".join(error.messages))
    else:
        messages.success(
            request,
            f"Command {given.pk} ({given.kind}) is queued; the control loop carries it out at its next tick.",
        )
    back = post.get("next", "")
    if not url_has_allowed_host_and_scheme(back, {request.get_host()}, require_https=request.is_secure()):
        back = "fleet"
    return redirect(back)


def shown(request: HttpRequest) -> dict[str, Any]:
    now = timezone.now()
    find = request.GET.get("find", "").strip()
    pools = _pools(find, now)
    names = [pool.name for pool in pools[:MOST_POOLS]]
    with connection.cursor() as cur:
        phases = read_phases(plain(cur), now.timestamp(), names)
    pilots = list(recent_pilots(now)[: MOST_PILOTS + 1])
    clusters = list(Cluster.objects.order_by("name").prefetch_related("ways"))
    return {
        "clusters": [
            (row, cluster_health(row, now), unknown_jobs(row), row.name if len(clusters) > 1 else "")
            for row in clusters
        ],
        "pilots": pilots[:MOST_PILOTS],
        "more_pilots": len(pilots) > MOST_PILOTS,
        "pools": [(pool, phases[pool.name].named(pool.name), _pin(pool, now)) for pool in pools[:MOST_POOLS]],
        "more_pools": len(pools) > MOST_POOLS,
        "find": find,
        "query": request.GET.urlencode(),
        "held_profiles": ProfileState.objects.filter(latched_at__isnull=False).select_related("profile"),
        "decisions": _last_decisions(Decision.objects.all()),
        "commands": Command.objects.select_related("created_by", "pilot", "replica").order_by("-id")[
            :LAST_COMMANDS
        ],
    }


def _last_decisions(rows: QuerySet[Decision]) -> QuerySet[Decision]:
    return decision_search.with_jobs(rows).order_by("-id")[:LAST_DECISIONS]


def _pools(find: str, now: datetime) -> list[Pool]:
    """Return the pools whose names hold `find`; those that failed, are paused or pinned, or have replicas come first."""
    live = Exists(Replica.objects.filter(pool=OuterRef("pk")).exclude(state__in=REPLICA_ENDED))
    failing = Q(state__latched_at__isnull=False) | Q(state__failures__gt=0)
    kept = Q(state__pinned_until__gt=now) | Q(paused=True)
    pools = Pool.objects.select_related("state").annotate(
        place=Case(When(failing, then=0), When(kept | live, then=1), default=2)
    )
    if find:
        pools = pools.filter(name__icontains=find)
    return list(pools.order_by("place", "name")[: MOST_POOLS + 1])


def _pin(pool: Pool, now: datetime) -> str:
    """Return how long the pool is pinned, in words; "" when it is not."""
    state = getattr(pool, "state", None)
    pinned_until = state.pinned_until if state is not None else None
    return until(pinned_until) if pinned_until is not None and pinned_until > now else ""


def shown_pilot(id: UUID) -> dict[str, Any]:
    row = get_object_or_404(Pilot.objects.select_related("profile"), pk=id)
    return {
        "pilot": row,
        "replicas": row.replicas.order_by("wanted_at"),
        "log": PilotLog.objects.filter(pilot=row).first(),
        "decisions": _last_decisions(Decision.objects.filter(pilot=row.id)),
        "events": FleetEvent.objects.filter(pilot=row.id).order_by("-id")[:LAST_DECISIONS],
    }
