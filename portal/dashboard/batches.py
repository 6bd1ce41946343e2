"""A person's batches: a file of requests handed in, how far each is, and what it has answered so far.

As in the API, a batch and its files are their owner's, a person in a project: to everybody else, team-mates and
operators too, they do not exist.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

from django import forms
from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.core.exceptions import ValidationError
from django.db import connection, transaction
from django.db.models import QuerySet
from django.http import Http404, HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.utils import timezone
from django.utils.http import content_disposition_header
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt, csrf_protect
from django.views.decorators.http import require_http_methods, require_POST

from gpuworker.wire import CHAT
from portal.accounts.models import Project, User
from portal.batches import cancellation, intake, transitions
from portal.batches.contents import Contents, parts
from portal.batches.queries import Owner
from portal.catalog.models import Model
from portal.config import config
from portal.dashboard.fragments import unchanged_is_304
from portal.dashboard.progress import Part, progress
from portal.dashboard.upload import FIELD, Arrived, IntoDraft, into_draft
from portal.db.connections import plain
from portal.errors import ApiError
from portal.fleet.phase import Phase
from portal.fleet.residency import residency
from portal.ledger.models import Batch, File, Request
from portal.ledger.states import RequestState
from portal.redis import hints
from portal.services.access import caller

PAGE_ROWS = 50
# Tells htmx to ask no more: what has ended does not change.
STOP_POLLING = 286
WINDOWS = {"24h": "24 hours", "7d": "7 days", "30d": "30 days"}
FILES = {"input": "input_file", "output": "output_file", "errors": "error_file"}
EXAMPLE_LINE = json.dumps(
    {
        "custom_id": "line-1",
        "method": "POST",
        "url": CHAT.path,
        "body": {"model": "…", "messages": [{"role": "user", "content": "What is Slurm?"}]},
    },
    ensure_ascii=False,
)


@dataclass(frozen=True, slots=True)
class ShownBatch:
    """A batch as the pages show it."""

    batch: Batch
    parts: list[Part]
    live: bool

    @property
    def waiting(self) -> int:
        row = self.batch
        return row.total - row.completed - row.failed - row.cancelled - row.expired


class NewBatch(forms.Form):
    """The form of a new batch; the rules themselves are those of `portal.batches.intake`."""

    project = forms.ModelChoiceField(Project.objects.none(), to_field_name="slug", empty_label=None)
    endpoint = forms.ChoiceField(
        choices=[(path, path) for path in sorted(intake.ENDPOINTS)],
        initial=CHAT.path,
        help_text="API endpoint of every line of the file.",
    )
    completion_window = forms.ChoiceField(
        choices=list(WINDOWS.items()),
        label="Completion window",
        help_text="Requests that have not run by then expire.",
    )
    # The last one: what comes before it in the form is read also when the file is too large.
    file = forms.FileField(
        help_text="One request per line (JSONL), as for POST /v1/files.",
        widget=forms.FileInput(attrs={"accept": ".jsonl,.ndjson,application/jsonl"}),
    )

    def __init__(self, user: User, request: HttpRequest | None = None) -> None:
        sent, files = (None, None) if request is None else (request.POST, request.FILES)
        super().__init__(sent, files, label_suffix="")
        projects = self.fields["project"]
        assert isinstance(projects, forms.ModelChoiceField)
        projects.queryset = _projects(user)
        self.user = user

    def create(self, arrived: IntoDraft) -> UUID | None:
        """Return the id of the new batch, stored with its file; or None, and the form's fields say what is wrong."""
        if arrived.refused is not None:
            self.add_error(FIELD, arrived.refused.message)
        if not self.is_valid():
            return None
        file, now = self.cleaned_data[FIELD], timezone.now()
        assert isinstance(file, Arrived)
        owner = Owner(self.cleaned_data["project"].pk, self.user.pk)
        keep = timedelta(days=config().file_keep_days)
        try:
            batch = intake.new_batch(owner, None, file.draft.file, self.cleaned_data, now)
        except ApiError as refusal:
            self.add_error(None, ValidationError(refusal.message))
            return None
        file.draft.complete()
        with transaction.atomic(), connection.cursor() as cur:
            transitions.add_file(plain(cur), intake.new_file(file.draft, owner, str(file.name), keep, now))
            transitions.create(plain(cur), batch)
        arrived.kept = True
        return batch.id


# Exempt only until the form's file has somewhere to go: Django reads the token of the form with the rest of it.
@csrf_exempt
@login_required
@require_http_methods(["GET", "POST"])
def page(request: HttpRequest) -> HttpResponse:
    if request.method == "GET":
        return render(request, "dashboard/batches.html", shown(request, NewBatch(caller(request))))
    with into_draft(request) as arrived:
        return _upload(request, arrived)


@csrf_protect
def _upload(request: HttpRequest, arrived: IntoDraft) -> HttpResponse:
    form = NewBatch(caller(request), request)
    id_ = form.create(arrived)
    if id_ is None:
        return render(request, "dashboard/batches.html", shown(request, form), status=422)
    hints.batches_soon()
    return redirect("batch", id_)


@unchanged_is_304
@login_required
def fragment(request: HttpRequest) -> HttpResponse:
    return render(request, "dashboard/_batches.html", shown(request))


@login_required
def one(request: HttpRequest, id: UUID) -> HttpResponse:
    return render(request, "dashboard/batch.html", shown_one(_mine(caller(request), id)))


@unchanged_is_304
@login_required
def one_fragment(request: HttpRequest, id: UUID) -> HttpResponse:
    told = shown_one(_mine(caller(request), id))
    return render(request, "dashboard/_batch.html", told, status=200 if told["live"] else STOP_POLLING)


@login_required
@require_POST
def cancel(request: HttpRequest, id: UUID) -> HttpResponse:
    batch = _mine(caller(request), id)
    owner = Owner(batch.project_id, batch.user_id)
    try:
        with transaction.atomic(), connection.cursor() as cur:
            _, moved = cancellation.cancel(plain(cur), batch.pk, owner, timezone.now())
    except ApiError as refusal:
        messages.error(request, refusal.message)
        return redirect("batch", id)
    if moved:
        hints.batches_soon()
        messages.success(request, "The batch is being cancelled. Completed results stay in its output.")
    return redirect("batch", id)


@never_cache
@login_required
def download(request: HttpRequest, id: UUID, which: str) -> HttpResponseBase:
    """Send a file of the batch, as far as it is written; what is committed is complete lines."""
    file: File | None = getattr(_mine(caller(request), id), FILES[which])
    if file is None or file.erased_at is not None:
        raise Http404
    path = Contents(config().files_dir).path(file.pk)
    if not path.exists():
        raise Http404
    answer = StreamingHttpResponse(_sent(path, file.bytes), content_type="application/jsonl")
    answer["Content-Length"] = str(file.bytes)
    answer["Content-Disposition"] = content_disposition_header(True, file.name) or "attachment"
    return answer


async def _sent(path: Path, length: int) -> AsyncIterator[bytes]:
    with path.open("rb", buffering=0) as file:
        async for part in parts(file.fileno(), length):
            yield part


def shown(request: HttpRequest, form: NewBatch | None = None) -> dict[str, Any]:
    """Return one page of the person's batches, newest first."""
    user = caller(request)
    rows = _batches(user)
    before = request.GET.get("before", "")
    if before:
        at = rows.filter(pk=_id(before)).values_list("created_at", flat=True).first()
        rows = rows.filter(created_at__lte=at).exclude(created_at=at, pk__gte=before) if at else rows.none()
    found = list(rows[: PAGE_ROWS + 1])
    return {
        "form": form,
        "batches": [_shown(row) for row in found[:PAGE_ROWS]],
        "older": found[PAGE_ROWS - 1].pk if len(found) > PAGE_ROWS else None,
        "first": not before,
        "projects": dict(_projects(user).values_list("pk", "slug")),
        "max_mib": config().max_file_bytes // 1024**2,
        "max_lines": config().max_batch_lines,
        "example_line": EXAMPLE_LINE,
    }


def shown_one(batch: Batch) -> dict[str, Any]:
    told = _shown(batch)
    last = _last(batch) if told.live and told.waiting else None
    return {
        "shown": told,
        "batch": batch,
        "live": told.live,
        "project": Project.objects.get(pk=batch.project_id).slug,
        "window": WINDOWS.get(batch.completion_window, batch.completion_window),
        "model": last.model if last is not None else "",
        "phase": _phase(last) if last is not None else None,
        "parked": last is not None and last.state == RequestState.PARKED,
        "files": [(word, file) for word, name in FILES.items() if (file := getattr(batch, name)) is not None],
    }


def _shown(batch: Batch) -> ShownBatch:
    return ShownBatch(batch, progress(batch), batch.state in transitions.LIVE)


def _last(batch: Batch) -> Request | None:
    """Return the request that runs last. Where it is parked, others may be; where it is not, none is. It is one row
    of an index, however many there are."""
    return Request.objects.filter(batch_id=batch.pk).order_by("-batch_line").first()


def _phase(last: Request) -> Phase | None:
    """Return how ready the model is that the batch waits for; None where it has left the catalog."""
    shown = residency(Model.objects.filter(name=last.model).select_related("pool"))
    return shown[0].phase if shown else None


def _mine(user: User, id: UUID) -> Batch:
    return get_object_or_404(_batches(user), pk=id)


def _batches(user: User) -> QuerySet[Batch]:
    """Return the batches that a token of this person would show: in projects that the person is in now."""
    mine = _projects(user).values_list("pk", flat=True)
    rows = Batch.objects.filter(user_id=user.pk, project_id__in=list(mine))
    return rows.select_related("input_file", "output_file", "error_file").order_by("-created_at", "-pk")


def _projects(user: User) -> QuerySet[Project]:
    return Project.objects.filter(membership__user=user, is_active=True).order_by("slug")


def _id(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise Http404 from None
