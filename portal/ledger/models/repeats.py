"""What is remembered so that asking twice is asking once: places kept, and keys that clients chose."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from portal.ledger.models.requests import Request


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
