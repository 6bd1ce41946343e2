"""A person's projects with their limits; and for its managers what a project has: members, tokens, requests by state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import Count, Q
from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts import members
from portal.accounts.issue import revoke
from portal.accounts.models import ApiToken, Membership, Project, Quota
from portal.config import config
from portal.ledger.models import Request
from portal.policy.limits import KINDS, WORDS
from portal.services.access import caller

RECENT = timedelta(days=7)
MOST_TOKENS = 200
_COLUMNS = {"requests": "requests_per_min", "tokens": "tokens_per_min"}


@dataclass(frozen=True, slots=True)
class ProjectLimit:
    words: str
    most: int | None


class NewMember(forms.Form):
    username = forms.CharField(
        max_length=150, label="User name", help_text="It is shown at the top right of that user's pages."
    )
    role = forms.ChoiceField(choices=Membership.Role.choices)

    def __init__(self, sent: Any = None) -> None:
        super().__init__(sent, label_suffix="")

    def add_to(self, project: Project) -> Membership | None:
        """Return the new member; or None, and the form's fields say what is wrong."""
        if not self.is_valid():
            return None
        try:
            return members.add(project, self.cleaned_data["username"], self.cleaned_data["role"])
        except ValidationError as refusal:
            self.add_error(None, refusal)
            return None


@login_required
def mine(request: HttpRequest) -> HttpResponse:
    rows = Membership.objects.filter(user=caller(request)).select_related("project", "project__quota")
    shown = [(row, limits(row.project)) for row in rows.order_by("project__slug")]
    return render(request, "dashboard/projects.html", {"rows": shown})


@login_required
@require_http_methods(["GET", "POST"])
def one(request: HttpRequest, slug: str) -> HttpResponse:
    """Show the page of a project, and take its form that adds a member."""
    project = _managed(request, slug)
    form = NewMember(request.POST if request.method == "POST" else None)
    if request.method == "POST":
        added = form.add_to(project)
        if added is not None:
            messages.success(request, f"{added.user} was added to the project.")
            return redirect("project", slug)
    now = timezone.now()
    live = Q(revoked_at=None, expires_at__gt=now)
    recent = Request.objects.filter(project_id=project.pk, accepted_at__gt=now - RECENT)
    tokens = ApiToken.objects.filter(live, project=project).select_related("user")
    context = {
        "project": project,
        "form": form,
        "limits": limits(project),
        "members": Membership.objects.filter(project=project)
        .select_related("user")
        .order_by("user__username"),
        "roles": Membership.Role.choices,
        "states": recent.values("state").annotate(number=Count("pk")).order_by("state"),
        "tokens": tokens.order_by("user__username", "-created_at")[:MOST_TOKENS],
    }
    return render(request, "dashboard/project.html", context, status=422 if form.errors else 200)


@login_required
@require_POST
def change(request: HttpRequest, slug: str, id: int) -> HttpResponse:
    """Give a member another role, or none."""
    project = _managed(request, slug)
    row = get_object_or_404(Membership.objects.select_related("user", "project"), pk=id, project=project)
    wish = request.POST.get("role", "")
    try:
        if wish == "none":
            members.remove(row)
            messages.success(
                request, f"{row.user} was removed from the project. Their tokens in it are revoked."
            )
        else:
            members.set_role(row, wish)
            messages.success(request, f"{row.user} is now a {wish}.")
    except ValidationError as refusal:
        messages.error(request, " ".join(refusal.messages))
    still = members.may_manage(caller(request), project)
    return redirect("project", slug) if still else redirect("projects")


@login_required
@require_POST
def end_token(request: HttpRequest, slug: str, id: int) -> HttpResponse:
    project = _managed(request, slug)
    token = get_object_or_404(ApiToken, pk=id, project=project)
    if revoke(token):
        messages.success(request, f"{token.user}'s token “{token.name}” is revoked.")
    return redirect("project", slug)


def limits(project: Project) -> list[ProjectLimit]:
    """Return the project's own limits, else the site's."""
    own: Quota | None = getattr(project, "quota", None)
    site = config().limits.get("project")
    found = []
    for kind in KINDS:
        most = getattr(own, _COLUMNS.get(kind, kind)) if own is not None else getattr(site, kind, None)
        found.append(ProjectLimit(WORDS[kind].capitalize(), most))
    return found


def _managed(request: HttpRequest, slug: str) -> Project:
    project = get_object_or_404(Project.objects.select_related("quota"), slug=slug)
    if not members.may_manage(caller(request), project):
        raise Http404
    return project
