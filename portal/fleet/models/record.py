"""What people asked of the fleet, and what was done: commands, decisions, moves, logs."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from portal.catalog.models import Pool
from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models.pilots import Pilot, Replica


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
        PIN = "pin", "keep a model resident"
        UNPIN = "unpin", "end a pin"
        EVICT = "evict", "drain all replicas of a model"
        TEST_LAUNCH = "test_launch", "start a model once, to see whether it works"
        ADOPT = "adopt", "take an unknown job of ours for a pilot"
        REJECT = "reject", "cancel an unknown job of ours"
        INSPECT = "inspect", "look at the folder of a model that is to be registered"

    class State(models.TextChoices):
        PENDING = "pending"
        DONE = "done"
        FAILED = "failed"  # carried out; what it was to show or bring about did not work
        REFUSED = "refused"  # it made no sense

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

    @property
    def asked_by(self) -> str:
        """Return who gave it: an account, or at the command line somebody without one."""
        if self.created_by is not None:
            return self.created_by.get_username()
        return str(self.args.get("by") or "Someone")


class Decision(models.Model):
    """A decision: what the loop did to which pilot or replica, with inputs in brief and the reason in
    English.

    `scheduler.act.decision_rows` alone writes them.
    """

    at = models.DateTimeField(db_index=True)
    kind = models.CharField(max_length=30)
    pool = models.CharField(max_length=128, blank=True, db_index=True)
    pilot = models.UUIDField(null=True, db_index=True)
    replica = models.UUIDField(null=True)
    reason = models.TextField()
    inputs = models.JSONField(default=dict)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(kind__in=[kind.value for kind in DecisionKind]), name="decision_kind_known"
            )
        ]

    def __str__(self) -> str:
        return f"{self.kind}: {self.reason}"


class FleetEvent(models.Model):
    """A move of a pilot or replica, as it happened."""

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
