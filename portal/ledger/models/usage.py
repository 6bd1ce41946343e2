"""What ended requests used, by hour and by day: sums that outlive the requests, and the deltas not in them yet."""

from __future__ import annotations

from django.db import models


class Sums(models.Model):
    """The sums of what requests used that ended within one hour or day."""

    at = models.DateTimeField(help_text="Its beginning, UTC.")
    requests = models.BigIntegerField(help_text="However they ended.")
    failed = models.BigIntegerField(help_text="Of them: failed or expired.")
    prompt_tokens = models.BigIntegerField()
    completion_tokens = models.BigIntegerField()
    gpu_s = models.FloatField(help_text="Engine time × the GPUs of the engine, each request for itself.")

    class Meta:
        abstract = True


class Spent(Sums):
    """The sums of one user, project and model."""

    user_id = models.BigIntegerField()
    project_id = models.BigIntegerField()
    model = models.CharField(max_length=128)

    class Meta:
        abstract = True


class Usage(Spent):
    """One row of sums, folded from the deltas by `portal.ledger.usage.fold`, each into its hour and into its day: a
    month is then 30 rows of a model and not 720."""

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


class UsageTotal(Sums):
    """The sums of everybody, folded along: of all together, of each model, of each project and of each person. For
    pages that show the whole site, which would else add up as many rows as there are people × projects × models."""

    step = models.CharField(max_length=5, choices=[(word, word) for word in ("hour", "day", "month")])
    kind = models.CharField(
        max_length=7, choices=[(word, word) for word in ("all", "model", "project", "user")]
    )
    name = models.CharField(
        max_length=128, blank=True, help_text="The model's; of projects and users the id."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["kind", "step", "name", "at"], name="usage_total_once")
        ]
        indexes = [models.Index(fields=["kind", "step", "at"], name="usage_total_by_time")]

    def __str__(self) -> str:
        return f"{self.kind} {self.name} at {self.at:%Y-%m-%d %H:00}"


class UsageDelta(Spent):
    """A change of the sums of an hour. Written by a trigger in the transaction that ends the requests: nothing is
    counted twice or not at all (decisions/0019). Deltas, because one row per sum would make every writer wait for
    every other."""

    def __str__(self) -> str:
        return f"{self.model} at {self.at:%Y-%m-%d %H:00} {self.requests:+d}"
