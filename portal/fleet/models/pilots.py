"""Pilots and replicas: Slurm jobs and the engines inside them.

Stored are facts, each with one writer: what Slurm said and when (the control loop), what the agent said and
when (the worker API), what is desired (the control loop).
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from portal.catalog.models import Engine, Pool, Profile
from portal.db.choices import choices
from portal.fleet.slurm_words import meaning
from portal.fleet.states import PilotState, ReplicaStart, ReplicaState


class Pilot(models.Model):
    """A Slurm job that runs a gpuworker. planned → submitted → pending → up → draining → ended(reason)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.CharField(max_length=64)
    profile = models.ForeignKey(Profile, on_delete=models.PROTECT)
    state = models.CharField(max_length=10, choices=choices(PilotState), default=PilotState.PLANNED.value)
    job_name = models.CharField(max_length=100, unique=True)
    job_id = models.BigIntegerField(null=True)
    gpus = models.PositiveSmallIntegerField(help_text="Of all its nodes.")
    nodes = models.PositiveSmallIntegerField(db_default=1, default=1)
    mem_mb = models.PositiveIntegerField(help_text="Of each of its nodes.")
    walltime_min = models.PositiveIntegerField()
    gpu_type = models.CharField(max_length=64, blank=True, db_default="")
    replaces = models.ForeignKey(
        "self",
        on_delete=models.SET_NULL,
        null=True,
        related_name="successors",
        help_text="The pilot that it takes over from before its walltime ends.",
    )
    planned_at = models.DateTimeField()
    submitted_at = models.DateTimeField(null=True)
    up_at = models.DateTimeField(null=True, help_text="The loop saw it registered.")
    draining_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.TextField(blank=True)

    # What Slurm said. Writer: the control loop.
    slurm_state = models.CharField(max_length=30, blank=True)
    slurm_reason = models.CharField(max_length=200, blank=True)
    slurm_seen_at = models.DateTimeField(null=True)
    slurm_start_at = models.DateTimeField(null=True)
    slurm_end_at = models.DateTimeField(null=True, help_text="When Slurm will end the job.")

    # What the agent said. Writer: the worker API.
    registered_at = models.DateTimeField(null=True)
    agent_job_id = models.BigIntegerField(null=True, help_text="Set once: of two jobs of one name one wins.")
    job_started_at = models.DateTimeField(null=True, help_text="First line of the job script.")
    node = models.TextField(blank=True, help_text="Slurm's list of its nodes, whole.")
    address = models.CharField(max_length=300, blank=True, help_text="Opaque transport to its ingress.")
    gpu_ids = models.JSONField(default=list)
    agent_version = models.CharField(max_length=50, blank=True)
    said_ending = models.TextField(blank=True)
    staged = models.JSONField(db_default=[], help_text="Pools whose weights lie on its node-local scratch.")
    stage_wish = models.CharField(
        max_length=128,
        blank=True,
        db_default="",
        help_text="The pool whose weights are to be there, ahead of need.",
    )

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[*map(str, PilotState)]), name="pilot_state_known"),
            models.CheckConstraint(
                condition=(Q(state="ended") & Q(ended_at__isnull=False))
                | (~Q(state="ended") & Q(ended_at__isnull=True)),
                name="pilot_ended_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["submitted", "pending", "up", "draining"])
                | Q(job_id__isnull=False, submitted_at__isnull=False),
                name="pilot_submitted_has_job",
            ),
            models.CheckConstraint(
                condition=~Q(state="up") | Q(up_at__isnull=False), name="pilot_up_has_time"
            ),
            models.CheckConstraint(
                condition=~Q(state="draining") | Q(draining_at__isnull=False), name="pilot_draining_has_time"
            ),
            models.UniqueConstraint(
                fields=["cluster", "job_id"],
                condition=~Q(state="ended") & Q(job_id__isnull=False),
                name="pilot_one_owner_per_job",
            ),
        ]
        indexes = [
            models.Index(fields=["cluster"], condition=~Q(state="ended"), name="pilot_live"),
            models.Index(fields=["-planned_at"], name="pilot_by_time"),
        ]

    def __str__(self) -> str:
        return self.job_name

    @property
    def slurm_words(self) -> str:
        """Return what Slurm said of the job, as people read it, with its own words behind; empty before it
        said anything."""
        if not self.slurm_state:
            return ""
        said = meaning(self.slurm_state, self.slurm_reason)
        return f"{self.slurm_state}: {said.text}"


class Replica(models.Model):
    """One engine process in a pilot. wanted → starting → hot → draining → asleep | stopped | failed."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    pilot = models.ForeignKey(Pilot, on_delete=models.PROTECT, related_name="replicas")
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="replicas")
    model = models.CharField(max_length=128, help_text="Name its engine serves under.")
    engine = models.CharField(max_length=10, choices=Engine)
    state = models.CharField(max_length=10, choices=choices(ReplicaState), default=ReplicaState.WANTED.value)
    gpu_indices = models.JSONField(default=list, help_text="Into the pilot's GPUs.")
    mem_mb = models.PositiveIntegerField()
    cap = models.PositiveSmallIntegerField()
    sleep_level = models.PositiveSmallIntegerField(
        db_default=0, help_text="What a drain leads to: 0 stops it, 1 and 2 put the engine to sleep."
    )
    wanted_at = models.DateTimeField()
    draining_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.TextField(blank=True)

    # What the agent said. Writer: the worker API.
    start = models.CharField(
        max_length=5, choices=choices(ReplicaStart), default=ReplicaStart.LOAD.value, db_default="load",
        help_text="Why its engine starts: its weights are loaded, or it is woken.",
    )  # fmt: skip
    phase = models.CharField(max_length=200, blank=True, help_text="The engine's own words while it starts.")
    started_at = models.DateTimeField(null=True, help_text="Engine process started.")
    hot_at = models.DateTimeField(null=True, help_text="Engine answered its health check.")
    engine_version = models.CharField(max_length=50, blank=True)
    revision = models.CharField(
        max_length=100, blank=True, db_default="", help_text="Of its model, when its engine was started."
    )
    asleep_at = models.DateTimeField(null=True, help_text="Its engine was seen to have freed its GPUs.")
    asleep_mem_mb = models.PositiveIntegerField(null=True, help_text="Host memory it held when it slept.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(state__in=[*map(str, ReplicaState)]), name="replica_state_known"
            ),
            models.CheckConstraint(
                condition=Q(start__in=[*map(str, ReplicaStart)]), name="replica_start_known"
            ),
            models.CheckConstraint(
                condition=(Q(state__in=["stopped", "failed"]) & Q(ended_at__isnull=False))
                | (~Q(state__in=["stopped", "failed"]) & Q(ended_at__isnull=True)),
                name="replica_ended_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(state__in=["hot", "asleep"]) | Q(hot_at__isnull=False),
                name="replica_hot_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(state="draining") | Q(draining_at__isnull=False),
                name="replica_draining_has_time",
            ),
            models.CheckConstraint(
                condition=~Q(state="failed") | ~Q(end_reason=""), name="replica_failed_has_reason"
            ),
        ]
        indexes = [
            models.Index(
                fields=["pool"], condition=~Q(state__in=["stopped", "failed"]), name="replica_live_by_pool"
            ),
            models.Index(
                fields=["pilot"], condition=~Q(state__in=["stopped", "failed"]), name="replica_live_by_pilot"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.model} in {self.pilot_id}"


class GpuClaim(models.Model):
    """A GPU of a pilot in the hands of one live replica. The unique constraint forbids two owners."""

    pilot = models.ForeignKey(Pilot, on_delete=models.CASCADE, related_name="gpu_claims")
    gpu = models.PositiveSmallIntegerField()
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, related_name="gpu_claims")

    class Meta:
        constraints = [models.UniqueConstraint(fields=["pilot", "gpu"], name="gpuclaim_one_owner")]

    def __str__(self) -> str:
        return f"GPU {self.gpu} of {self.pilot_id}"
