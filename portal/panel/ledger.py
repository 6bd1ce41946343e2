"""Admin pages for the ledger: metadata only, and nothing that writes. Payloads are never shown to anyone here."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Field, QuerySet
from django.db.models.functions import Length
from django.http import HttpRequest, HttpResponse
from django.utils.safestring import SafeString

from portal.accounts.models import Project, User
from portal.ledger.models import (
    Batch,
    BatchEnd,
    Depth,
    File,
    Holder,
    IdempotencyKey,
    Payload,
    Request,
    RequestEvent,
    Ticket,
    Usage,
    UsageDelta,
    UsageTotal,
)
from portal.panel.lists import known
from portal.panel.readonly import ReadOnlyAdmin, is_uuid, link, link_list, short
from portal.services import request_search


@admin.register(Request)
class RequestAdmin(ReadOnlyAdmin[Request]):
    list_display = [
        "id",
        "state",
        "lane",
        "model",
        "project_id",
        "user_id",
        "attempt",
        "accepted_at",
        "ended_at",
        "engine_version",
        "gpu_type",
        "error_code",
    ]
    list_filter = ["state", "lane", "stream"]
    search_fields = ["=id", "=model"]
    ordering = ["-accepted_at"]
    sortable_by = ()
    fields = [
        "id", "state", "lane", "model", "pool", "project", "user", "token_id", "api", "stream", "priority", "order_key",
        "attempt", "crashes", "holder", "ran_on", "revision", "engine_version", "gpu_type", "accepted_at",
        "granted_at", "slurm_s", "load_s", "first_token_at", "ended_at", "expires_at",
        "http_status", "error_code", "error_text", "prompt_tokens", "completion_tokens", "batch_id", "batch_line",
        "custom_id", "events",
    ]  # fmt: skip

    def changelist_view(
        self, request: HttpRequest, extra_context: dict[str, Any] | None = None
    ) -> HttpResponse:
        looked_at = f"Search by id or model. Search words and filters cover the newest {request_search.MOST_LOOKED_AT:,}."
        return super().changelist_view(request, {"subtitle": looked_at, **(extra_context or {})})

    def get_queryset(self, request: HttpRequest) -> QuerySet[Request]:
        """Return all requests, or where filters or words are given, the newest ones: no index leads to what those ask
        for, so such a list ends where `request_search` stops, too."""
        rows = super().get_queryset(request)
        if not set(request.GET) - {"p", "o", "_changelist_filters"} or is_uuid(request.GET.get("q", "")):
            return rows
        edge = request_search.edge(Request.objects.order_by("-accepted_at", "-id"))
        return rows.filter(accepted_at__gte=edge) if edge is not None else rows

    @admin.display(description="project")
    def project(self, row: Request) -> SafeString | str:
        # Plain numbers without foreign keys: the one they name may be gone.
        found = Project.objects.filter(pk=row.project_id).first()
        return link("accounts_project", found.pk, found.slug) if found else f"{row.project_id} (deleted)"

    @admin.display(description="user")
    def user(self, row: Request) -> SafeString | str:
        found = User.objects.filter(pk=row.user_id).first()
        return link("accounts_user", found.pk, found.username) if found else f"{row.user_id} (deleted)"

    @admin.display(description="replica")
    def ran_on(self, row: Request) -> SafeString | str:
        return link("fleet_replica", row.replica)

    @admin.display(description="events")
    def events(self, row: Request) -> SafeString:
        return link_list("ledger_requestevent", f"request_id={row.id}", "events")


@admin.register(Payload)
class PayloadAdmin(ReadOnlyAdmin[Payload]):
    """The page of payloads: that one is kept and how large it is; its bytes are not even read."""

    list_display = ["request", "body_bytes", "result_bytes"]
    fields = ["request", "body_bytes", "result_bytes"]
    search_fields = ["=request"]
    sortable_by = ()

    def get_queryset(self, request: HttpRequest) -> QuerySet[Payload]:
        rows = super().get_queryset(request).defer("body", "result").select_related("request")
        return rows.annotate(body_bytes=Length("body"), result_bytes=Length("result"))

    @admin.display(description="body, bytes")
    def body_bytes(self, row: Payload) -> int | None:
        return getattr(row, "body_bytes", None)

    @admin.display(description="result, bytes")
    def result_bytes(self, row: Payload) -> int | None:
        return getattr(row, "result_bytes", None)


@admin.register(Ticket)
class TicketAdmin(ReadOnlyAdmin[Ticket]):
    list_display = ["request", "token_id", "claimed_by", "expires_at"]
    search_fields = ["=request"]
    list_select_related = ["request"]


@admin.register(IdempotencyKey)
class IdempotencyKeyAdmin(ReadOnlyAdmin[IdempotencyKey]):
    """The page of idempotency keys. Clients choose them, so a key may say more than it should: it is not shown."""

    list_display = ["id", "token_id", "request", "expires_at"]
    fields = ["token_id", "request", "expires_at"]
    search_fields = ["=request"]


@admin.register(RequestEvent)
class RequestEventAdmin(ReadOnlyAdmin[RequestEvent]):
    list_display = ["at", "kind", "of_request", "attempt", "detail"]
    list_filter = [known("kind", lambda: RequestEvent.KINDS)]
    search_fields = ["=request_id"]
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description="request")
    def of_request(self, row: RequestEvent) -> SafeString | str:
        return link("ledger_request", row.request_id, short(row.request_id))


@admin.register(Holder)
class HolderAdmin(ReadOnlyAdmin[Holder]):
    list_display = ["id", "kind", "seen_at"]
    list_filter = ["kind"]
    search_fields = ["id"]


@admin.register(Depth)
class DepthAdmin(ReadOnlyAdmin[Depth]):
    list_display = ["pool", "lane", "state", "n"]
    list_filter = ["lane", "state"]
    search_fields = ["pool"]
    ordering = ["pool", "lane", "state"]


@admin.register(Usage)
class UsageAdmin(ReadOnlyAdmin[Usage]):
    list_display = ["at", "step", "project_id", "user_id", "model", "requests", "failed", "gpu_s"]
    list_filter = ["step"]
    search_fields = ["=user_id"]
    search_help_text = "The id of a user. For sums by model or project, see the usage totals."
    ordering = ["-id"]
    sortable_by = ()


@admin.register(UsageTotal)
class UsageTotalAdmin(ReadOnlyAdmin[UsageTotal]):
    list_display = ["at", "step", "kind", "name", "requests", "failed", "gpu_s"]
    list_filter = ["kind", "step"]
    search_fields = ["=name"]
    ordering = ["-id"]
    sortable_by = ()

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[UsageTotal], search_term: str
    ) -> tuple[QuerySet[UsageTotal], bool]:
        """Search by name in all kinds and steps, because the index begins with these."""
        found, twice = super().get_search_results(request, queryset, search_term)
        if search_term:
            for column in ("kind", "step"):
                field = UsageTotal._meta.get_field(column)
                assert isinstance(field, Field)
                found = found.filter(**{f"{column}__in": [word for word, _ in field.flatchoices]})
        return found, twice


@admin.register(UsageDelta)
class UsageDeltaAdmin(ReadOnlyAdmin[UsageDelta]):
    """The page of usage that is not in the sums yet; it is folded into them every few seconds."""

    list_display = ["at", "project_id", "user_id", "model", "requests", "failed", "gpu_s"]
    ordering = ["-id"]
    sortable_by = ()


@admin.register(File)
class FileAdmin(ReadOnlyAdmin[File]):
    list_display = [
        "id",
        "purpose",
        "bytes",
        "project_id",
        "user_id",
        "created_at",
        "expires_at",
        "erased_at",
    ]
    list_filter = ["purpose"]
    search_fields = ["=id"]
    fields = [
        "id",
        "purpose",
        "name",
        "bytes",
        "project_id",
        "user_id",
        "created_at",
        "expires_at",
        "erased_at",
    ]


@admin.register(Batch)
class BatchAdmin(ReadOnlyAdmin[Batch]):
    list_display = ["id", "state", "endpoint", "project_id", "total", "completed", "failed", "created_at"]
    list_filter = ["state", "endpoint"]
    search_fields = ["=id"]


@admin.register(BatchEnd)
class BatchEndAdmin(ReadOnlyAdmin[BatchEnd]):
    """The page of lines whose end is not in a file yet. Their results are not even read."""

    list_display = ["id", "batch_id", "request_id"]
    fields = ["id", "batch_id", "request_id"]
    search_fields = ["=batch_id", "=request_id"]

    def get_queryset(self, request: HttpRequest) -> QuerySet[BatchEnd]:
        return super().get_queryset(request).defer("result")
