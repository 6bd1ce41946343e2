"""A request's row, what lies beside it, who holds it and how many there are."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from portal.db.choices import choices
from portal.ledger.states import Lane, RequestState

_LANES: dict[str, str] = {
    Lane.HELD: "a client is waiting on a connection",
    Lane.ASYNC: "nobody is waiting",
    Lane.BATCH: "part of a batch",
}


class Request(models.Model):
    """One inference call. Accepted once this row is committed; a hot stream is recorded at its end.

    queued → running → done | failed | cancelled | expired; running → queued when interrupted;
    parked: over a quota that will refill (async and batch only).
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pool = models.CharField(max_length=128)
    model = models.CharField(max_length=128)
    project_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField(null=True)
    api = models.CharField(max_length=40, help_text="Path of the API, e.g. /v1/chat/completions.")
    stream = models.BooleanField(default=False)
    lane = models.CharField(max_length=5, choices=choices(Lane, _LANES))
    priority = models.SmallIntegerField(default=0)
    order_key = models.FloatField(
        help_text="Place in the pool's queue, lowest first; set once at acceptance."
    )
    state = models.CharField(max_length=9, choices=choices(RequestState))
    attempt = models.PositiveIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)
    holder = models.CharField(max_length=64, null=True, help_text="The process that has it in its hands.")
    replica = models.UUIDField(null=True)
    # Of what served it, copied when it was handed out; null = not known.
    revision = models.CharField(max_length=100, null=True, help_text="Of the model.")
    engine_version = models.CharField(max_length=50, null=True)
    gpu_type = models.CharField(max_length=64, null=True, help_text="As its job's profile names it.")
    batch_id = models.UUIDField(null=True)
    batch_line = models.PositiveIntegerField(null=True)
    batch_offset = models.BigIntegerField(null=True)
    batch_length = models.PositiveIntegerField(null=True)
    custom_id = models.CharField(max_length=200, null=True)
    accepted_at = models.DateTimeField()
    granted_at = models.DateTimeField(null=True)
    slurm_s = models.FloatField(null=True, help_text="Of the wait until then: for Slurm to start the job.")
    load_s = models.FloatField(null=True, help_text="Of the wait until then: for the model to be loaded.")
    first_token_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    http_status = models.PositiveSmallIntegerField(null=True)
    error_code = models.CharField(max_length=40, null=True)
    error_text = models.TextField(null=True)
    prompt_tokens = models.PositiveIntegerField(null=True)
    completion_tokens = models.PositiveIntegerField(null=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=[*map(str, RequestState)]), name="request_state_known"
            ),
            models.CheckConstraint(condition=Q(lane__in=[*map(str, Lane)]), name="request_lane_known"),
            models.CheckConstraint(
                condition=(
                    Q(state__in=["done", "failed", "cancelled", "expired"]) & Q(ended_at__isnull=False)
                )
                | (Q(state__in=["queued", "parked", "running"]) & Q(ended_at__isnull=True)),
                name="request_ended_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(state="running")
                | Q(holder__isnull=False, replica__isnull=False, granted_at__isnull=False, attempt__gt=0),
                name="request_running_has_holder",
            ),
            # A held request waits in its gateway's hands; a detached one waits in nobody's.
            models.CheckConstraint(
                condition=~Q(state="queued")
                | (Q(lane="held") & Q(holder__isnull=False))
                | (~Q(lane="held") & Q(holder__isnull=True)),
                name="request_queued_holder_fits_lane",
            ),
            models.CheckConstraint(
                condition=~Q(state="parked") | ~Q(lane="held"), name="request_held_never_parked"
            ),
            models.CheckConstraint(
                condition=~Q(state="failed") | Q(error_code__isnull=False), name="request_failed_has_code"
            ),
            models.CheckConstraint(
                condition=~Q(lane="batch") | Q(batch_id__isnull=False), name="request_batch_lane_has_batch"
            ),
            models.UniqueConstraint(
                fields=["batch_id", "batch_line"],
                condition=Q(batch_id__isnull=False),
                name="request_batch_line_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["pool", "lane", "order_key", "id"], condition=Q(state="queued"), name="request_queue"
            ),
            models.Index(
                fields=["holder"], condition=Q(state__in=["queued", "running"]), name="request_by_live_holder"
            ),
            models.Index(fields=["replica"], condition=Q(state="running"), name="request_by_live_replica"),
            models.Index(
                fields=["project_id", "order_key"], condition=Q(state="parked"), name="request_parked"
            ),
            models.Index(fields=["project_id", "-accepted_at"], name="request_by_project"),
            models.Index(fields=["user_id", "-accepted_at"], name="request_by_user"),
            models.Index(fields=["-accepted_at"], name="request_by_time"),
            # Results that are kept, for the notice before they are deleted.
            models.Index(
                fields=["ended_at"], condition=Q(lane="async", state="done"), name="request_answered_later"
            ),
        ]

    def __str__(self) -> str:
        return str(self.id)


class Payload(models.Model):
    """A request's body and result, apart from it, so that erasing is deleting a row."""

    request = models.OneToOneField(
        Request, on_delete=models.CASCADE, primary_key=True, related_name="payload", db_column="request"
    )
    body = models.BinaryField()
    content_type = models.CharField(max_length=100, db_default="application/json", help_text="Of the body.")
    engine_path = models.CharField(
        max_length=200, db_default="", help_text="Where the engine is asked; empty: where the endpoint says."
    )
    result = models.BinaryField(null=True)
    result_type = models.CharField(
        max_length=100, db_default="application/json", help_text="Content type of the result."
    )

    def __str__(self) -> str:
        return f"payload of {self.pk}"


class RequestEvent(models.Model):
    """An abnormal move. The normal ones are the request's own times."""

    KINDS = ("requeue", "detach", "poison", "cancel")

    request_id = models.UUIDField(db_index=True)
    at = models.DateTimeField()
    kind = models.CharField(max_length=20)
    attempt = models.PositiveIntegerField()
    detail = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.kind} of {self.request_id}"


class Holder(models.Model):
    """A process that holds requests. One heartbeat row per process, not one lease per request."""

    class Kind(models.TextChoices):
        GATEWAY = "gateway"
        PILOT = "pilot"

    id = models.CharField(max_length=64, primary_key=True)
    kind = models.CharField(max_length=10, choices=Kind)
    seen_at = models.DateTimeField()

    def __str__(self) -> str:
        return f"{self.kind} {self.pk}"


class Depth(models.Model):
    """One counter of live requests per pool, lane and state, kept by a trigger as deltas; their sum is the depth.

    Deltas, because one counter row per pool would make every writer wait for every other; the control loop
    folds them together.
    """

    pool = models.CharField(max_length=128)
    lane = models.CharField(max_length=5)
    state = models.CharField(max_length=9)
    n = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.pool} {self.lane} {self.state} {self.n:+d}"
