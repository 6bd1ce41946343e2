"""Batches, their files, and the outbox between a line's end and its file."""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import F, Q

from portal.db.choices import choices
from portal.ledger.states import BatchState


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


class Batch(models.Model):
    """An OpenAI batch: a file of requests, the low-priority filler. Moved by `portal.batches.transitions`.

    validating → in_progress → finalizing → completed | expired; validating → failed;
    validating | in_progress → cancelling → cancelled. While validating it has no requests, after it all of them.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project_id = models.BigIntegerField()
    user_id = models.BigIntegerField()
    token_id = models.BigIntegerField(null=True)
    state = models.CharField(max_length=12, choices=choices(BatchState))
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
        verbose_name_plural = "batches"
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[*map(str, BatchState)]), name="batch_state_known"),
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
