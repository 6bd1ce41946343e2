"""The ledger: every request, its payload, and who holds it. Schema, admin and reads only.

States are moved by `portal.ledger.transitions` and by nothing else. The constraints here tie each state to
the facts it implies, so that a wrong move fails in the database rather than being found by a person.
Owners are plain numbers without foreign keys: the hot path writes these rows and must not lock a project
for each request; retention, not cascades, removes them.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q


class Lane(models.TextChoices):
    HELD = "held", "a client is waiting on a connection"
    ASYNC = "async", "nobody is waiting"
    BATCH = "batch", "part of a batch"


class RequestState(models.TextChoices):
    QUEUED = "queued"
    PARKED = "parked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


ENDED = (RequestState.DONE, RequestState.FAILED, RequestState.CANCELLED, RequestState.EXPIRED)


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
    lane = models.CharField(max_length=5, choices=Lane)
    priority = models.SmallIntegerField(default=0)
    order_key = models.FloatField(
        help_text="Place in the pool's queue, lowest first; set once at acceptance."
    )
    state = models.CharField(max_length=9, choices=RequestState)
    attempt = models.PositiveIntegerField(default=0)
    crashes = models.PositiveSmallIntegerField(default=0)
    holder = models.CharField(max_length=64, null=True, help_text="The process that has it in its hands.")
    replica = models.UUIDField(null=True)
    batch_id = models.UUIDField(null=True)
    batch_line = models.PositiveIntegerField(null=True)
    batch_offset = models.BigIntegerField(null=True)
    batch_length = models.PositiveIntegerField(null=True)
    custom_id = models.CharField(max_length=200, null=True)
    accepted_at = models.DateTimeField()
    granted_at = models.DateTimeField(null=True)
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
            models.CheckConstraint(condition=Q(state__in=RequestState.values), name="request_state_known"),
            models.CheckConstraint(condition=Q(lane__in=Lane.values), name="request_lane_known"),
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
        ]

    def __str__(self) -> str:
        return str(self.id)


class Payload(models.Model):
    """A request's body and result, apart from it, so that erasing is deleting a row."""

    request = models.OneToOneField(
        Request, on_delete=models.CASCADE, primary_key=True, related_name="payload", db_column="request"
    )
    body = models.BinaryField()
    result = models.BinaryField(null=True)

    def __str__(self) -> str:
        return f"payload of {self.pk}"


class Ticket(models.Model):
    """The place in line of a request whose client was told to come again. Nobody runs it while the client is
    away; a retry (same token and digest) claims it. Its row stays queued, held by its gateway, until
    `expires_at`."""

    request = models.OneToOneField(
        Request, on_delete=models.CASCADE, primary_key=True, related_name="ticket", db_column="request"
    )
    token_id = models.BigIntegerField()
    digest = models.CharField(max_length=64, help_text="Of API and body, SHA-256 in hex.")
    claimed_by = models.UUIDField(null=True, unique=True, help_text="The retry that took it; null = away.")
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [
            models.Index(
                fields=["token_id", "digest"], condition=Q(claimed_by__isnull=True), name="ticket_away"
            ),
            models.Index(fields=["expires_at"], name="ticket_by_expiry"),
        ]

    def __str__(self) -> str:
        return f"ticket of {self.pk}"


class IdempotencyKey(models.Model):
    """A key that a client gave to a request, so that asking twice is asking once. Kept for 24 h."""

    token_id = models.BigIntegerField()
    key = models.CharField(max_length=255)
    digest = models.CharField(max_length=64, help_text="Of API and body, SHA-256 in hex.")
    request = models.UUIDField(help_text="The request that answers for this key.")
    expires_at = models.DateTimeField()

    class Meta:
        constraints = [models.UniqueConstraint(fields=["token_id", "key"], name="idempotencykey_once")]
        indexes = [models.Index(fields=["expires_at"], name="idempotencykey_by_expiry")]

    def __str__(self) -> str:
        return f"key of {self.request}"


class RequestEvent(models.Model):
    """An abnormal move (requeue, detach, poison, operator). The normal ones are the request's own times."""

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
    """Counters of live requests per pool, lane and state, kept by a trigger as deltas; their sum is the depth.

    Deltas, because one counter row per pool would make every writer wait for every other; the control loop
    folds them together.
    """

    pool = models.CharField(max_length=128)
    lane = models.CharField(max_length=5)
    state = models.CharField(max_length=9)
    n = models.BigIntegerField()

    def __str__(self) -> str:
        return f"{self.pool} {self.lane} {self.state} {self.n:+d}"


class File(models.Model):
    """A file of a batch: requests in, answers or errors out. Its content lies on disk under its id."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    purpose = models.CharField(max_length=20)
    name = models.CharField(max_length=255, help_text="As its owner calls it; never a path.")
    bytes = models.BigIntegerField(help_text="Committed length; of an output, what may be read of it by now.")
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    erased_at = models.DateTimeField(null=True, help_text="The content is gone; batches still name the file.")

    class Meta:
        indexes = [
            models.Index(
                fields=["user_id", "project_id", "-created_at"],
                condition=Q(erased_at__isnull=True),
                name="file_by_owner",
            ),
        ]

    def __str__(self) -> str:
        return self.name


class BatchState(models.TextChoices):
    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"


class Batch(models.Model):
    """An OpenAI batch: a file of requests, the low-priority filler. Moved by `portal.ledger.batches.transitions`.

    validating → in_progress → finalizing → completed | expired; validating → failed;
    validating | in_progress → cancelling → cancelled. While validating it has no requests, after it all of them.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField(null=True)
    state = models.CharField(max_length=12, choices=BatchState)
    endpoint = models.CharField(max_length=40)
    completion_window = models.CharField(max_length=4, default="24h")
    metadata = models.JSONField(default=dict)
    input_file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="+")
    output_file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="+", null=True)
    error_file = models.ForeignKey(File, on_delete=models.PROTECT, related_name="+", null=True)
    created_at = models.DateTimeField()
    expires_at = models.DateTimeField()
    in_progress_at = models.DateTimeField(null=True)
    cancelling_at = models.DateTimeField(null=True)
    finalizing_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    errors = models.JSONField(default=list, help_text="Bad lines of the input: line, code, message, param.")
    # Counted when a line's end is written to a file, in the same transaction.
    total = models.PositiveIntegerField(default=0)
    completed = models.PositiveIntegerField(default=0)
    failed = models.PositiveIntegerField(default=0)
    cancelled = models.PositiveIntegerField(default=0)
    expired = models.PositiveIntegerField(default=0)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=BatchState.values), name="batch_state_known"),
            models.CheckConstraint(
                condition=(
                    Q(state__in=["failed", "completed", "expired", "cancelled"]) & Q(ended_at__isnull=False)
                )
                | (~Q(state__in=["failed", "completed", "expired", "cancelled"]) & Q(ended_at__isnull=True)),
                name="batch_ended_has_time",
            ),
            # A line whose end is written twice fails here.
            models.CheckConstraint(
                condition=Q(total__gte=F("completed") + F("failed") + F("cancelled") + F("expired")),
                name="batch_counts_each_line_once",
            ),
        ]
        indexes = [
            models.Index(
                fields=["created_at"],
                condition=Q(state__in=["validating", "in_progress", "cancelling", "finalizing"]),
                name="batch_live",
            ),
            models.Index(fields=["user_id", "project_id", "-created_at"], name="batch_by_owner"),
        ]

    def __str__(self) -> str:
        return str(self.id)


class BatchEnd(models.Model):
    """A line of a batch that has ended and is not written to the batch's files yet: the outbox between the two.

    Filled by the move that ends the request and emptied by the one that writes the files.
    """

    batch_id = models.UUIDField()
    request_id = models.UUIDField(unique=True)
    result = models.BinaryField(null=True)

    class Meta:
        indexes = [models.Index(fields=["batch_id", "id"], name="batchend_by_batch")]

    def __str__(self) -> str:
        return f"end of {self.request_id}"
