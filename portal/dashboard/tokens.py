"""A person's own API tokens: a new one, whose text is on one answer and nowhere else, and the end of an old one."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.issue import DEFAULT_DAYS, MOST_DAYS, issue_token, revoke
from portal.accounts.models import ApiToken, Project, User
from portal.accounts.tokens import Minted
from portal.services.access import caller

ENDS_SOON = timedelta(days=7)
MOST_ENDED = 20  # expired and revoked ones that are still listed
_SCOPES = {scope.value: scope.label for scope in ApiToken.Scope}


@dataclass(frozen=True, slots=True)
class ShownToken:
    """A token and how it stands: live, ends_soon, disabled, expired or revoked."""

    token: ApiToken
    standing: str
    may: tuple[str, ...]  # its scopes, in words

    @property
    def ended(self) -> bool:
        return self.standing in ("expired", "revoked")


class NewToken(forms.Form):
    """The form of a new token; the rules themselves are those of `issue_token`."""

    name = forms.CharField(max_length=100, help_text="What the token is for, such as a machine or a script.")
    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    scopes = forms.MultipleChoiceField(label="Scopes", widget=forms.CheckboxSelectMultiple)
    days = forms.IntegerField(
        label="Days until it expires",
        initial=DEFAULT_DAYS,
        min_value=1,
        max_value=MOST_DAYS,
        help_text=f"At most {MOST_DAYS}.",
    )

    def __init__(self, user: User, sent: QueryDict | None = None) -> None:
        super().__init__(sent, label_suffix="")
        self.user = user
        projects, scopes = self.fields["project"], self.fields["scopes"]
        assert isinstance(projects, forms.ModelChoiceField) and isinstance(scopes, forms.MultipleChoiceField)
        projects.queryset = _projects(user)
        fleet = ApiToken.Scope.FLEET.value
        scopes.choices = [pair for pair in _SCOPES.items() if user.operates or pair[0] != fleet]
        scopes.initial = [ApiToken.Scope.INFERENCE.value, ApiToken.Scope.READ.value]

    def clean_name(self) -> str:
        """Allow one live token per name: whoever sends the form again, e.g. by reloading, gets no second one."""
        name = str(self.cleaned_data["name"])
        live = ApiToken.objects.filter(user=self.user, revoked_at=None, expires_at__gt=timezone.now())
        if live.filter(name=name).exists():
            raise ValidationError(
                f"You already have a token called “{name}”. Revoke it or choose another name."
            )
        return name

    def issue(self) -> Minted | None:
        """Return the new token; or None, and the form's fields say what is wrong."""
        if not self.is_valid():
            return None
        wish = self.cleaned_data
        try:
            return issue_token(self.user, wish["project"], wish["name"], wish["scopes"], wish["days"])[1]
        except ValidationError as refusal:
            self.add_error(None, refusal)
            return None


@never_cache
@login_required
@require_http_methods(["GET", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    """Show the list and take the form. The answer to the form is the only place where a token's text is ever shown: a
    redirect would have to keep it somewhere."""
    user = caller(request)
    form = NewToken(user, request.POST if request.method == "POST" else None)
    minted = form.issue() if request.method == "POST" else None
    shown = _shown(user, timezone.now())
    context = {
        "form": form if minted is None else NewToken(user),
        "minted": minted,
        "tokens": [one for one in shown if not one.ended],
        "ended": [one for one in shown if one.ended][:MOST_ENDED],
    }
    refused = request.method == "POST" and minted is None
    return render(request, "dashboard/tokens.html", context, status=422 if refused else 200)


@login_required
@require_POST
def end(request: HttpRequest, id: int) -> HttpResponse:
    token = get_object_or_404(ApiToken, pk=id, user=caller(request))
    if revoke(token):
        messages.success(request, f"“{token.name}” is revoked. Programs that use it have lost access.")
    else:
        messages.info(request, f"“{token.name}” was already revoked.")
    return redirect("tokens")


def _shown(user: User, now: datetime) -> list[ShownToken]:
    """Return the person's tokens, newest first."""
    open_to = set(_projects(user).values_list("pk", flat=True))
    rows = ApiToken.objects.filter(user=user).select_related("project").order_by("-created_at", "-pk")
    return [
        ShownToken(
            token,
            _standing(token, now, token.project_id in open_to),
            tuple(_SCOPES.get(scope, scope) for scope in token.scopes),
        )
        for token in rows
    ]


def _standing(token: ApiToken, now: datetime, project_open: bool) -> str:
    if token.revoked_at is not None:
        return "revoked"
    if token.expires_at <= now:
        return "expired"
    if not project_open:
        return "disabled"
    return "ends_soon" if token.expires_at - now < ENDS_SOON else "live"


def _projects(user: User) -> QuerySet[Project]:
    """Return the projects in which a token of this person works."""
    return Project.objects.filter(membership__user=user, is_active=True).order_by("slug")
