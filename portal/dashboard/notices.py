"""What a person wants to be told, and where: mail by kind, a webhook of their own and of each project they manage."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.db import transaction
from django.db.models import Count, F, Max, OuterRef, Q, Subquery
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST

from portal.accounts.models import Membership, Project, User
from portal.config import config
from portal.notices.addresses import Refused, checked
from portal.notices.models import FOR_OPERATORS, Delivery, Kind, OptOut, Webhook
from portal.services.access import caller

LAST = 10


@never_cache
@login_required
def page(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/notices.html", shown(caller(request)))


def shown(user: User) -> dict[str, Any]:
    silent = set(OptOut.objects.filter(user=user).values_list("kind", flat=True))
    kinds = [(kind, kind not in silent) for kind in _offered(user)]
    projects = list(_managed(user))
    hooks = {hook.project_id: hook for hook in Webhook.objects.filter(project__in=projects)}
    mine = Webhook.objects.filter(user=user).first()
    named = [("", "Me", mine), *((p.slug, p.name, hooks.get(p.pk)) for p in projects)]
    known = [hook for _, _, hook in named if hook is not None]
    lost = _given_up(known)
    last = Delivery.objects.filter(Q(user=user) | Q(webhook__in=known)).select_related("webhook__project")
    return {
        "kinds": kinds,
        "mails": bool(config().mail.host),
        "hooks": [(slug, name, hook, lost.get(hook.pk) if hook else None) for slug, name, hook in named],
        "last": last.order_by("-pk")[:LAST],
    }


@login_required
@require_POST
def mail(request: HttpRequest) -> HttpResponse:
    """Store which kinds come by mail: those that are ticked. A kind that was not offered stays as it is."""
    user = caller(request)
    offered, wanted = _offered(user), set(request.POST.getlist("kind"))
    with transaction.atomic():
        OptOut.objects.filter(user=user, kind__in=offered).delete()
        OptOut.objects.bulk_create(OptOut(user=user, kind=kind) for kind in offered if kind not in wanted)
    messages.success(request, "Saved: you get mail for the events that are ticked.")
    return redirect("notices")


@never_cache
@login_required
@require_POST
def webhook(request: HttpRequest) -> HttpResponse:
    """Set, change, remove or try a webhook: one's own, or that of a project that one manages."""
    whose = _whose(request)
    hook = Webhook.objects.filter(**whose).first()
    wish, url = request.POST.get("do", "set"), request.POST.get("url", "").strip()
    if wish == "try" and hook is not None:
        _try(hook)
        messages.success(request, "A test is being sent; its result appears below in a moment.")
    elif wish == "remove" or not url:
        Webhook.objects.filter(**whose).delete()
        messages.success(request, "The webhook is removed.")
    else:
        try:
            checked(url, config().webhook_private)
        except Refused as refusal:
            # Shown where it was typed, to be mended; it is kept nowhere, since it may be a secret.
            typed = {"slug": request.POST.get("project", ""), "url": url[:500], "why": str(refusal)}
            told = shown(caller(request)) | {"refused": typed}
            return render(request, "dashboard/notices.html", told, status=422)
        # Another address has another secret: who knew the old one can sign nothing for the new.
        with transaction.atomic():
            Webhook.objects.filter(**whose).delete()
            Webhook.objects.create(url=url[:500], **whose)
        messages.success(request, "The webhook is saved. Your notices are sent there from now on.")
    return redirect("notices")


def _offered(user: User) -> list[Kind]:
    return [kind for kind in Kind if user.operates or kind not in FOR_OPERATORS]


def _given_up(hooks: list[Webhook]) -> dict[int, dict[str, Any]]:
    """Return, by webhook, how many notices were given up since it last took one, and when the last of them was."""
    told = Delivery.objects.filter(webhook=OuterRef("webhook"), state=Delivery.State.SENT)
    heard = Subquery(told.order_by("-ended_at").values("ended_at")[:1])
    failed = Delivery.objects.filter(webhook__in=hooks, state=Delivery.State.FAILED).annotate(heard=heard)
    since = failed.filter(Q(heard=None) | Q(ended_at__gt=F("heard")))
    rows = since.values("webhook").annotate(number=Count("pk"), at=Max("ended_at")).order_by()
    return {row["webhook"]: dict(row) for row in rows}


def _try(hook: Webhook) -> None:
    now = timezone.now()
    Delivery.objects.get_or_create(
        key=f"test:{hook.pk}:{now:%Y%m%d%H%M}",  # once a minute is often enough
        defaults={
            "kind": Kind.MODEL_READY,
            "webhook": hook,
            "subject": "A test",
            "text": "A test of this webhook.",
            "data": {"test": True},
            "next_at": now,
            "created_at": now,
        },
    )


def _whose(request: HttpRequest) -> dict[str, Any]:
    slug = request.POST.get("project", "")
    if not slug:
        return {"user": caller(request)}
    project = _managed(caller(request)).filter(slug=slug).first()
    if project is None:
        raise Http404
    return {"project": project}


def _managed(user: User) -> Any:
    role = Membership.Role.MANAGER
    return Project.objects.filter(membership__user=user, membership__role=role).order_by("slug")
