"""The fleet: pilots and replicas, what people asked of it, what it decided, what Slurm said.

Stored are facts, each with one writer: what Slurm said and when (the control loop), what the agent said and
when (the worker API), what is desired (the control loop). `portal.fleet.transitions` alone moves states.
Shown phases are derived by `portal.fleet.phase`.
"""

from __future__ import annotations

import uuid

from django.db import models
from django.db.models import Q

from portal.catalog.models import Engine, Pool, Profile
from portal.fleet.slurm_words import meaning


class PilotState(models.TextChoices):
    PLANNED = "planned"  # the intent, before sbatch
    SUBMITTED = "submitted"  # sbatch answered with a job id
    PENDING = "pending"  # seen in a listing, not running
    UP = "up"  # its agent registered
    DRAINING = "draining"
    ENDED = "ended"


class ReplicaState(models.TextChoices):
    WANTED = "wanted"
    STARTING = "starting"
    HOT = "hot"
    DRAINING = "draining"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    FAILED = "failed"


REPLICA_ENDED = (ReplicaState.STOPPED, ReplicaState.FAILED)


class Pilot(models.Model):
    """A Slurm job that runs a gpuworker. planned → submitted → pending → up → draining → ended(reason)."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    cluster = models.CharField(max_length=64)
    profile = models.ForeignKey(Profile, on_delete=models.PROTECT)
    state = models.CharField(max_length=10, choices=PilotState, default=PilotState.PLANNED)
    job_name = models.CharField(max_length=100, unique=True)
    job_id = models.BigIntegerField(null=True)
    gpus = models.PositiveSmallIntegerField()
    mem_mb = models.PositiveIntegerField()
    walltime_min = models.PositiveIntegerField()
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
    node = models.CharField(max_length=200, blank=True)
    address = models.CharField(max_length=300, blank=True, help_text="Opaque transport to its ingress.")
    gpu_ids = models.JSONField(default=list)
    agent_version = models.CharField(max_length=50, blank=True)
    said_ending = models.CharField(max_length=200, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=PilotState.values), name="pilot_state_known"),
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
        """What Slurm said of the job, as people read it, with its own words behind; empty before it said anything."""
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
    state = models.CharField(max_length=10, choices=ReplicaState, default=ReplicaState.WANTED)
    gpu_indices = models.JSONField(default=list, help_text="Into the pilot's GPUs.")
    mem_mb = models.PositiveIntegerField()
    cap = models.PositiveSmallIntegerField()
    wanted_at = models.DateTimeField()
    draining_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    end_reason = models.TextField(blank=True)

    # What the agent said. Writer: the worker API.
    phase = models.CharField(max_length=200, blank=True, help_text="The engine's own words while it starts.")
    started_at = models.DateTimeField(null=True, help_text="Engine process started.")
    hot_at = models.DateTimeField(null=True, help_text="Engine answered its health check.")
    engine_version = models.CharField(max_length=50, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(state__in=ReplicaState.values), name="replica_state_known"),
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


class PoolState(models.Model):
    """What the loop remembers of a pool between ticks. Writer: the control loop."""

    pool = models.OneToOneField(Pool, on_delete=models.CASCADE, primary_key=True, related_name="state")
    failures = models.PositiveSmallIntegerField(default=0, help_text="Failed launches in a row.")
    retry_at = models.DateTimeField(null=True)
    latched_at = models.DateTimeField(null=True)
    reason = models.TextField(blank=True, help_text="Why nothing is launched, for those who wait.")
    interest_until = models.DateTimeField(
        null=True, help_text="A launch is not cancelled because callers left."
    )
    load_s = models.FloatField(null=True, help_text="Measured load time, smoothed.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(latched_at__isnull=True) | ~Q(reason=""), name="poolstate_latched_has_reason"
            )
        ]

    def __str__(self) -> str:
        return f"state of {self.pool_id}"


class Command(models.Model):
    """A row asking the control loop to do something. Operators, users and pages only write commands."""

    class Kind(models.TextChoices):
        DRAIN = "drain", "drain a pilot or replica"
        CANCEL = "cancel", "cancel a pilot's job at once"
        RELAUNCH = "relaunch", "clear a pool's failure latch and try again"
        WAKE = "wake", "have a model ready"
        PAUSE = "pause", "launch nothing (a pool, or the fleet)"
        RESUME = "resume", "end a pause"
        LOG = "log", "fetch a pilot's log"

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        REFUSED = "refused"

    kind = models.CharField(max_length=12, choices=Kind)
    pilot = models.ForeignKey(Pilot, on_delete=models.CASCADE, null=True, blank=True)
    replica = models.ForeignKey(Replica, on_delete=models.CASCADE, null=True, blank=True)
    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, null=True, blank=True)
    args = models.JSONField(default=dict, blank=True)
    state = models.CharField(max_length=8, choices=State, default=State.PENDING)
    result = models.TextField(blank=True)
    created_by = models.ForeignKey("accounts.User", on_delete=models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        indexes = [models.Index(fields=["created_at"], condition=Q(state="pending"), name="command_pending")]

    def __str__(self) -> str:
        return f"{self.kind} #{self.pk}"


class Decision(models.Model):
    """What the loop did to which pilot or replica, with inputs in brief and the reason in English."""

    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=30)
    pool = models.CharField(max_length=128, blank=True, db_index=True)
    pilot = models.UUIDField(null=True, db_index=True)
    replica = models.UUIDField(null=True)
    reason = models.TextField()
    inputs = models.JSONField(default=dict)

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class FleetEvent(models.Model):
    """Every move of a pilot or replica, as it happened."""

    at = models.DateTimeField(db_index=True)
    pilot = models.UUIDField(db_index=True)
    replica = models.UUIDField(null=True)
    old = models.CharField(max_length=10, blank=True)
    new = models.CharField(max_length=10)
    detail = models.TextField(blank=True)

    def __str__(self) -> str:
        return f"{self.old} → {self.new}"


class PilotLog(models.Model):
    """The end of a job's output, for operators. Fetched on command and when a pilot ends."""

    pilot = models.OneToOneField(Pilot, on_delete=models.CASCADE, primary_key=True, related_name="log")
    text = models.TextField(blank=True)
    at = models.DateTimeField()

    def __str__(self) -> str:
        return f"log of {self.pilot_id}"


class Cluster(models.Model):
    """What the loop knows of a Slurm cluster: its last listing, and whether it answers at all."""

    name = models.CharField(max_length=64, primary_key=True)
    paused = models.BooleanField(default=False, help_text="The whole fleet launches nothing.")
    tried_at = models.DateTimeField(null=True, help_text="Last time Slurm was asked.")
    answered_at = models.DateTimeField(null=True, help_text="Last time it answered.")
    error = models.TextField(
        blank=True, help_text="Why the last question had no answer; empty when it had one."
    )
    jobs = models.JSONField(default=dict, help_text="The last good listing, by job name.")
    orphans = models.JSONField(
        default=dict, help_text="Jobs of ours that no row knows: first seen, by job id."
    )
    ticked_at = models.DateTimeField(null=True, help_text="End of the last good tick.")

    def __str__(self) -> str:
        return self.name
