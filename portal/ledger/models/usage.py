"""What ended requests used, by hour and by day: sums that outlive the requests, and the deltas not in them yet."""

from __future__ import annotations

from django.db import models


class Spent(models.Model):
    """What requests of one user, project and model used that ended within one hour or day."""

    at = models.DateTimeField(help_text="Its beginning, UTC.")
    user_id = models.BigIntegerField()
    project_id = models.BigIntegerField()
    model = models.CharField(max_length=128)
    requests = models.BigIntegerField(help_text="However they ended.")
    failed = models.BigIntegerField(help_text="Of them: failed or expired.")
    prompt_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    gpu_s = models.FloatField(help_text="Engine time × the GPUs of the engine, each request for itself.")

    class Meta:
        abstract = True


class Usage(Spent):
    """Folded from the deltas by `portal.ledger.usage.fold`, each into its hour and into its day: a month is then 30
    rows of a model and not 720."""

    step = models.CharField(max_length=4, choices=[("hour", "hour"), ("day", "day")])

    class Meta:
        verbose_name_plural = "usage"
        constraints = [
            models.UniqueConstraint(
                fields=["user_id", "step", "at", "project_id", "model"], name="usage_once"
            ),
        ]
        indexes = [models.Index(fields=["project_id", "step", "at"], name="usage_by_project")]

    def __str__(self) -> str:
        return f"{self.model} at {self.at:%Y-%m-%d %H:00}"


class UsageDelta(Spent):
    """By hour. Written by a trigger in the transaction that ends the requests: nothing is counted twice or not at all
    (decisions/0019). Deltas, because one row per sum would make every writer wait for every other."""

    def __str__(self) -> str:
        return f"{self.model} at {self.at:%Y-%m-%d %H:00} {self.requests:+d}"
