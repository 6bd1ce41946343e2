"""The fleet once a minute, for the pictures that operators look at."""

from __future__ import annotations

from django.db import models


class Sample(models.Model):
    """A sample of GPUs by what they do, of the queue, and of how long requests waited.

    Writer: the control loop, which also forgets old ones.
    """

    cluster = models.CharField(max_length=64)
    at = models.DateTimeField(help_text="A full minute.")

    # GPUs of jobs of ours. Their sum is what we hold, but for `asked`.
    busy = models.PositiveIntegerField(help_text="GPUs whose engine answers requests.")
    ready = models.PositiveIntegerField(help_text="GPUs with a model that nobody asks.")
    loading = models.PositiveIntegerField(help_text="GPUs on which a model is loaded or woken.")
    empty = models.PositiveIntegerField(help_text="GPUs held, with no model on them.")
    asked = models.PositiveIntegerField(help_text="GPUs asked of Slurm, in jobs that have not started.")

    running = models.PositiveIntegerField()
    queued_held = models.PositiveIntegerField()
    queued_async = models.PositiveIntegerField()
    queued_batch = models.PositiveIntegerField()
    parked = models.PositiveIntegerField()

    # Of requests that people sent one by one, and that were handed to an engine a short while ago; null: none was.
    wait_p50_s = models.FloatField(null=True)
    wait_p95_s = models.FloatField(null=True)
    oldest_s = models.FloatField(
        null=True, help_text="How long the one next in line has waited; null: nobody waits."
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "at"], name="sample_once_a_minute")]

    def __str__(self) -> str:
        return f"{self.cluster} at {self.at:%Y-%m-%d %H:%M}"
