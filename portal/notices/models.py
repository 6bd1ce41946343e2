"""Who is told what, over which way, and what became of it."""

from __future__ import annotations

import hashlib
import hmac

from django.db import models
from django.db.models import Q

from portal.accounts.models import Project, User
from portal.config import config


class Kind(models.TextChoices):
    MODEL_READY = "model_ready", "a model is ready and I asked to be notified"
    BATCH_ENDED = "batch_ended", "a batch of mine is finished or has failed"
    TOKEN_EXPIRING = "token_expiring", "a token of mine expires in a week, and again in a day"
    RESULT_EXPIRING = "result_expiring", "results of mine are about to be deleted"
    MODEL_LATCHED = "model_latched", "a model does not start and an operator has to relaunch it"
    SLURM_SILENT = "slurm_silent", "Slurm does not answer"
    QUEUE_OLD = "queue_old", "requests wait too long"


FOR_OPERATORS = (Kind.MODEL_LATCHED, Kind.SLURM_SILENT, Kind.QUEUE_OLD)


class OptOut(models.Model):
    """A person's choice to get no mail of this kind."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    kind = models.CharField(max_length=20, choices=Kind)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["user", "kind"], name="optout_once")]

    def __str__(self) -> str:
        return f"no mail of {self.kind} to {self.user}"


class Webhook(models.Model):
    """An address of a person's or a project's own that is told everything of theirs."""

    user = models.OneToOneField(User, on_delete=models.CASCADE, null=True, blank=True, related_name="webhook")
    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, null=True, blank=True, related_name="webhook"
    )
    url = models.CharField(max_length=500, help_text="Often a secret itself.")
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(user__isnull=False, project=None) | Q(user=None, project__isnull=False),
                name="webhook_of_one",
            )
        ]

    def __str__(self) -> str:
        return f"webhook of {self.user or self.project}"

    @property
    def secret(self) -> str:
        """Return what the webhook's notices are signed with. It is derived, so that no dump of the database holds it."""
        said = f"webhook {self.pk} {self.created_at.isoformat()}".encode()
        return hmac.new(config().site_key, said, hashlib.sha256).hexdigest()


class Wish(models.Model):
    """A wish to be told when a model is ready. It ends when that was told, or after a day."""

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="+")
    model = models.CharField(max_length=128)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        verbose_name_plural = "wishes"
        constraints = [models.UniqueConstraint(fields=["user", "model"], name="wish_once")]

    def __str__(self) -> str:
        return f"{self.user} waits for {self.model}"


class Delivery(models.Model):
    """One event on its way to one recipient. `key` names both, so that nothing is told twice."""

    class State(models.TextChoices):
        PENDING = "pending"
        SENT = "sent"
        FAILED = "failed"

    key = models.CharField(max_length=255, unique=True)
    kind = models.CharField(max_length=20, choices=Kind)
    user = models.ForeignKey(
        User, on_delete=models.CASCADE, null=True, related_name="+", help_text="By mail."
    )
    webhook = models.ForeignKey(Webhook, on_delete=models.CASCADE, null=True, related_name="+")
    subject = models.CharField(max_length=200)
    text = models.TextField()
    data = models.JSONField(default=dict)
    state = models.CharField(max_length=7, choices=State, default=State.PENDING)
    attempts = models.PositiveSmallIntegerField(default=0)
    next_at = models.DateTimeField()
    created_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    error = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name_plural = "deliveries"
        indexes = [models.Index(fields=["next_at"], condition=Q(state="pending"), name="delivery_due")]
        constraints = [
            models.CheckConstraint(
                condition=Q(user__isnull=False, webhook=None) | Q(user=None, webhook__isnull=False),
                name="delivery_one_way",
            ),
            models.CheckConstraint(
                condition=Q(state="pending", ended_at=None)
                | (~Q(state="pending") & Q(ended_at__isnull=False)),
                name="delivery_ended_has_time",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.kind} to {self.user or self.webhook}"
