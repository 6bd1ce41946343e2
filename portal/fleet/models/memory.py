"""What the control loop remembers between ticks: of pools, profiles, nodes, clusters and the ways to them."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from portal.catalog.models import Pool, Profile


class PoolState(models.Model):
    """The loop's memory of a pool between ticks. Writer: the control loop."""

    pool = models.OneToOneField(Pool, on_delete=models.CASCADE, primary_key=True, related_name="state")
    failures = models.PositiveSmallIntegerField(default=0, help_text="Failed launches in a row.")
    retry_at = models.DateTimeField(null=True)
    latched_at = models.DateTimeField(null=True)
    reason = models.TextField(blank=True, help_text="Why nothing is launched, for those who wait.")
    interest_until = models.DateTimeField(
        null=True, help_text="A launch is not cancelled because callers left."
    )
    load_s = models.FloatField(null=True, help_text="Measured load time, smoothed.")
    wake_s = models.FloatField(null=True, help_text="Measured time from asleep to hot, smoothed.")
    pinned_until = models.DateTimeField(
        null=True, help_text="An operator keeps it resident: never let go, never switched out."
    )
    service_s = models.FloatField(null=True, help_text="Measured engine time of one request, smoothed.")
    measured_at = models.DateTimeField(null=True, help_text="When service_s was last measured.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(latched_at__isnull=True) | ~Q(reason=""), name="poolstate_latched_has_reason"
            )
        ]

    def __str__(self) -> str:
        return f"state of {self.pool_id}"


class Fit(models.Model):
    """One pool on one type of GPU: whether it fits, and how fast it loads and serves there. Writer: the control
    loop, from what was measured; `fits` may be set by a person or by an engine that ran out of memory."""

    pool = models.ForeignKey(Pool, on_delete=models.CASCADE, related_name="fits")
    gpu_type = models.CharField(max_length=64, blank=True, help_text="As profiles name it; empty: any.")
    fits = models.BooleanField(default=True)
    load_s = models.FloatField(null=True, help_text="Measured load time, smoothed.")
    service_s = models.FloatField(null=True, help_text="Measured engine time of one request, smoothed.")
    note = models.TextField(blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["pool", "gpu_type"], name="fit_once")]

    def __str__(self) -> str:
        return f"{self.pool_id} on {self.gpu_type or 'any GPU'}"


class ProfileState(models.Model):
    """The loop's memory of a profile: how long Slurm let its jobs wait, and why it submits none."""

    profile = models.OneToOneField(Profile, on_delete=models.CASCADE, primary_key=True, related_name="state")
    wait_p50_s = models.FloatField(null=True, help_text="Median wait of its jobs within a day.")
    wait_p90_s = models.FloatField(null=True)
    starts_at = models.DateTimeField(null=True, help_text="Slurm's estimate for a job submitted now.")
    estimated_at = models.DateTimeField(null=True)
    latched_at = models.DateTimeField(null=True)
    reason = models.TextField(blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(latched_at__isnull=True) | ~Q(reason=""), name="profilestate_latched_has_reason"
            )
        ]

    def __str__(self) -> str:
        return f"state of {self.profile_id}"


class BadNode(models.Model):
    """A node on which starts failed. New jobs leave it out until `excluded_until`."""

    cluster = models.CharField(max_length=64)
    node = models.CharField(max_length=200)
    failures = models.PositiveSmallIntegerField(default=0, help_text="Failed starts in a row.")
    excluded_until = models.DateTimeField(null=True)
    reason = models.TextField(blank=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "node"], name="badnode_once")]

    def __str__(self) -> str:
        return self.node


class Cluster(models.Model):
    """The loop's knowledge of a Slurm cluster, whichever way it heard it."""

    name = models.CharField(max_length=64, primary_key=True)
    paused = models.BooleanField(default=False, help_text="Nothing is launched in this cluster.")
    orphans = models.JSONField(
        default=dict, help_text="Jobs of ours that no row knows: first seen, by job id."
    )
    partitions = models.JSONField(default=dict, help_text="Partitions as Slurm last described them, by name.")
    reservations = models.JSONField(default=list, help_text="Reservations as Slurm last listed them.")
    accounts = models.JSONField(
        default=dict,
        db_default={},
        help_text="Accounts that we may use, with their QOS; empty: none are kept, or not known.",
    )
    accounts_at = models.DateTimeField(null=True, help_text="When they were last asked for.")
    facts_at = models.DateTimeField(null=True, help_text="When partitions and reservations were read.")
    measured_at = models.DateTimeField(
        null=True, help_text="When waits and engine times were last looked at."
    )
    ticked_at = models.DateTimeField(null=True, help_text="End of the last good tick.")

    def __str__(self) -> str:
        return self.name


class WayState(models.Model):
    """The state of one way to a cluster's Slurm: the last listing, and whether it answers. Writer: the
    control loop."""

    cluster = models.ForeignKey(Cluster, on_delete=models.CASCADE, related_name="ways")
    name = models.CharField(
        max_length=50, blank=True, help_text="Of the access; empty: Slurm's commands on the portal's host."
    )
    said = models.CharField(max_length=300, blank=True, help_text="The way in words.")
    tried_at = models.DateTimeField(null=True, help_text="Last time Slurm was asked.")
    answered_at = models.DateTimeField(null=True, help_text="Last time it answered.")
    error = models.TextField(
        blank=True, help_text="Why the last question had no answer; empty when it had one."
    )
    silence_noted = models.BooleanField(
        default=False,
        db_default=False,
        help_text="A decision row tells of the silence that `error` is about.",
    )
    jobs = models.JSONField(default=dict, help_text="The last good listing, by pilot.")
    busy_until = models.DateTimeField(
        null=True,
        help_text="A submission that nobody waited for may be under way until then: nothing is asked.",
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["cluster", "name"], name="waystate_once")]

    def __str__(self) -> str:
        return self.said
