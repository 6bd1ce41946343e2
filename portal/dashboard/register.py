"""A model from a folder, step by step: named, looked at by a job, proposed, saved, tried. For administrators and for
the managers of a project; operators see all and approve."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import PermissionDenied, ValidationError
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, redirect, render
from django.views.decorators.http import require_http_methods, require_POST

from portal.accounts.models import Project, User
from portal.catalog.models import Environment, Pool, Profile, model_name
from portal.catalog.proposal import USES, Proposal
from portal.dashboard.fragments import unchanged_is_304
from portal.fleet.models import Candidate, Command
from portal.fleet.states import PilotState
from portal.services import registration
from portal.services.access import caller
from portal.services.commands import NewCommand, give

MOST = 50
View = Callable[..., HttpResponse]


class NewCandidate(forms.Form):
    name = forms.CharField(
        max_length=128, validators=[model_name], help_text="Its name in API requests, such as llama-3.1-8b."
    )
    path = forms.CharField(
        label="Folder", max_length=500, help_text="The folder with config.json, as compute nodes see it."
    )
    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    profile = forms.ModelChoiceField(
        Profile.objects.none(),
        to_field_name="name",
        empty_label=None,
        help_text="Where and how its jobs are submitted.",
    )

    def __init__(self, user: User, sent: QueryDict | None = None) -> None:
        super().__init__(sent, label_suffix="")
        _choices(self, "project").queryset = registration.projects_of(user)
        _choices(self, "profile").queryset = registration.profiles_of(user)


class Settings(forms.Form):
    """The proposal, to be changed."""

    environment = forms.ModelChoiceField(Environment.objects.none(), to_field_name="name", empty_label=None)
    context_tokens = forms.IntegerField(
        label="Context length, tokens", required=False, min_value=1, max_value=10_000_000
    )
    gpus = forms.IntegerField(
        label="GPUs per replica", min_value=0, max_value=64, help_text="0: runs on CPUs only."
    )
    mem_mb = forms.IntegerField(label="Host memory, MiB", min_value=1, max_value=10_000_000)
    cap = forms.IntegerField(label="Max concurrent requests", min_value=1, max_value=4096, initial=32)
    keep_alive_s = forms.IntegerField(
        label="Keep-alive, seconds",
        min_value=0,
        max_value=10_000_000,
        initial=600,
        help_text="Idle time after which it is unloaded.",
    )
    load_estimate_s = forms.IntegerField(
        label="Load time, seconds",
        min_value=1,
        max_value=86_400,
        help_text="An estimate; replaced once it has been measured.",
    )
    description = forms.CharField(required=False, max_length=500)
    is_public = forms.BooleanField(label="Available to all projects", required=False)
    trust_remote_code = forms.BooleanField(
        label="Trust remote code: its own Python code runs in the engine (trust_remote_code)", required=False
    )

    def __init__(self, user: User, proposal: Proposal, sent: QueryDict | None = None) -> None:
        initial = {
            name: getattr(proposal, name) for name in ("context_tokens", "gpus", "mem_mb", "load_estimate_s")
        }
        super().__init__(sent, label_suffix="", initial=initial)
        _choices(self, "environment").queryset = registration.environments()
        if not user.is_superuser:
            del self.fields["is_public"], self.fields["trust_remote_code"]


def _choices(form: forms.Form, name: str) -> Any:
    return form.fields[name]


def registrars_only(view: View) -> View:
    @wraps(view)
    @login_required
    def guarded(request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
        if not registration.may_register(caller(request)):
            raise PermissionDenied("Only administrators and managers of projects may register models.")
        return view(request, *args, **kwargs)

    return guarded


@registrars_only
@require_http_methods(["GET", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    user = caller(request)
    form = NewCandidate(user, request.POST if request.method == "POST" else None)
    if request.method == "POST" and form.is_valid():
        try:
            candidate = registration.begin(user, **form.cleaned_data)
        except ValidationError as refusal:
            form.add_error(None, refusal)
        else:
            return redirect("register-one", candidate.pk)
    context = {
        "form": form,
        "candidates": [(row, phase(row)) for row in registration.candidates_of(user).order_by("-id")[:MOST]],
        "projects": registration.projects_of(user),
        "profiles": registration.profiles_of(user),
    }
    return render(request, "dashboard/register.html", context, status=422 if form.errors else 200)


@registrars_only
@require_http_methods(["GET", "POST"])
def one(request: HttpRequest, id: int) -> HttpResponse:
    """Show how far a candidate is, and take the form with the proposal."""
    user = caller(request)
    candidate = get_object_or_404(registration.candidates_of(user), pk=id)
    proposal = registration.proposal_for(candidate)
    form = None
    if proposal is not None and candidate.model_id is None and registration.may_change(user, candidate):
        form = Settings(user, proposal, request.POST if request.method == "POST" else None)
        if request.method == "POST" and form.is_valid():
            try:
                registration.save(user, candidate, registration.ModelChoices(**form.cleaned_data))
            except ValidationError as refusal:
                form.add_error(None, ValidationError(refusal.messages))
            else:
                messages.success(request, f"{candidate.name} is in the catalog.")
                return redirect("register-one", id)
    context = _shown(request, candidate) | {
        "form": form,
        "proposal": proposal,
        "use": proposal and USES[proposal.use],
    }
    return render(request, "dashboard/candidate.html", context, status=422 if form and form.errors else 200)


@unchanged_is_304
@registrars_only
def one_fragment(request: HttpRequest, id: int) -> HttpResponse:
    candidate = get_object_or_404(registration.candidates_of(caller(request)), pk=id)
    return render(request, "dashboard/_candidate.html", _shown(request, candidate) | {"moved": True})


@registrars_only
@require_POST
def again(request: HttpRequest, id: int) -> HttpResponse:
    registration.again(caller(request), _own(request, id))
    return redirect("register-one", id)


@registrars_only
@require_POST
def test(request: HttpRequest, id: int) -> HttpResponse:
    """Launch the model once, by the same command that operators have."""
    candidate = _own(request, id)
    if candidate.model is None or not candidate.model.enabled:
        messages.error(request, "It can be tested once it is saved and approved.")
    else:
        give(
            NewCommand(Command.Kind.TEST_LAUNCH, pool=Pool.objects.get(served=candidate.model)),
            caller(request),
        )
        messages.success(request, "A test launch is requested; this page shows its result.")
    return redirect("register-one", id)


@registrars_only
@require_POST
def approve(request: HttpRequest, id: int) -> HttpResponse:
    user = caller(request)
    if not user.operates:
        raise PermissionDenied("Only operators may approve models.")
    candidate = get_object_or_404(registration.candidates_of(user), pk=id)
    if registration.approve(candidate):
        messages.success(request, f"{candidate.name} can be used now.")
    return redirect("register-one", id)


def phase(row: Candidate) -> str:
    """Return how far the candidate is, as one word of `berth.STATES`."""
    if row.model is not None:
        return "approval" if row.approval else "saved"
    if row.error:
        return "failed"
    if row.found is not None:
        return "proposed"
    return "looked_at" if row.pilot is not None and row.pilot.state == PilotState.UP else "waiting"


def _shown(request: HttpRequest, row: Candidate) -> dict[str, Any]:
    user, where = caller(request), phase(row)
    asked = Command.objects.filter(kind=Command.Kind.INSPECT, args__candidate=row.pk).order_by("-id").first()
    tested = None
    if row.model is not None:
        tests = Command.objects.filter(kind=Command.Kind.TEST_LAUNCH, pool=row.model.pool_id)
        tested = tests.order_by("-id").first()
    return {
        "row": row,
        "phase": where,
        "asked": asked,
        "tested": tested,
        "moves": where in ("waiting", "looked_at", "approval")
        or (tested is not None and tested.state == Command.State.PENDING),
        "mine": registration.may_change(user, row),
        "may_approve": user.operates,
    }


def _own(request: HttpRequest, id: int) -> Candidate:
    """Return one of the candidates that this person may change; raise Http404 for any other."""
    user = caller(request)
    return get_object_or_404(
        registration.candidates_of(user).filter(project__in=registration.projects_of(user)), pk=id
    )
