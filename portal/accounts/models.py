"""Users, projects, memberships, API tokens and quotas.

A project is the unit of quota, fair share and charge-back; users belong to projects; a token acts for one
user in one project.
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from django.contrib.auth.models import AbstractUser
from django.core.exceptions import ValidationError
from django.db import models
from django.db.models import F, Q


def is_root(path: str) -> bool:
    """Say whether a path is absolute, and not the whole file system."""
    pure = PurePosixPath(path)
    plain = pure.is_absolute() and ".." not in pure.parts and len(pure.parts) > 1
    return plain and not any(ord(c) < 32 for c in path)


class User(AbstractUser):
    """A person. Operators see the fleet and every request's metadata, never its payload."""

    is_operator = models.BooleanField(default=False, help_text="May see the fleet and give it commands.")
    is_pending = models.BooleanField(
        default=False, editable=False, help_text="Came by single sign-on; nobody has let this person in yet."
    )
    projects: models.ManyToManyField[Project, Membership] = models.ManyToManyField(
        "Project", through="Membership", related_name="users"
    )

    class Meta(AbstractUser.Meta):
        constraints = [
            models.CheckConstraint(
                condition=~Q(is_pending=True, is_active=True), name="user_pending_inactive"
            )
        ]

    def save(self, *args: Any, **kwargs: Any) -> None:
        self.is_pending = self.is_pending and not self.is_active  # who is let in waits no more
        super().save(*args, **kwargs)

    @property
    def operates(self) -> bool:
        return self.is_active and (self.is_operator or self.is_superuser)


class Project(models.Model):
    """The unit of quota, fair share and charge-back."""

    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=200)
    weight = models.FloatField(default=1.0, help_text="Share of a pool under contention, relative to others.")
    max_gpus = models.PositiveIntegerField(
        null=True, blank=True, help_text="Most GPUs of pilots and models that serve only it; empty: no cap."
    )
    is_active = models.BooleanField(default=True)
    model_roots = models.JSONField(
        default=list,
        db_default=[],
        blank=True,
        help_text='Folders on compute nodes below which its managers may register models, e.g. ["/models/waves"].',
    )
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(weight__gt=0),
                name="project_weight_positive",
                violation_error_message="The weight is more than 0.",
            )
        ]

    def __str__(self) -> str:
        return self.slug

    def clean(self) -> None:
        roots = self.model_roots
        if not isinstance(roots, list) or not all(isinstance(one, str) and is_root(one) for one in roots):
            raise ValidationError(
                {"model_roots": 'Write a JSON list of absolute paths, e.g. ["/models/waves"].'}
            )


class Membership(models.Model):
    """A user's place in a project."""

    class Role(models.TextChoices):
        MEMBER = "member"
        MANAGER = "manager"

    class Priority(models.IntegerChoices):
        """A rank among the requests that one project has waiting; between projects the weights decide."""

        LATER = -1, "after the others'"
        USUAL = 0, "usual"
        FIRST = 1, "before the others'"

    user = models.ForeignKey(User, on_delete=models.CASCADE)
    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    role = models.CharField(max_length=10, choices=Role, default=Role.MEMBER)
    priority = models.SmallIntegerField(
        choices=Priority,
        default=Priority.USUAL,
        db_default=Priority.USUAL,
        help_text="Where their requests stand among what the project has waiting, unless a request says otherwise.",
    )
    by_claim = models.BooleanField(
        default=False, help_text="Given by a claim rule, which also takes it back when the claim is gone."
    )

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["user", "project"], name="membership_once"),
            models.CheckConstraint(condition=Q(priority__in=[-1, 0, 1]), name="membership_priority_known"),
        ]

    def __str__(self) -> str:
        return f"{self.user} in {self.project}"


class ClaimRule(models.Model):
    """A rule: whoever logs in by single sign-on with this value in the provider's project claim belongs to the
    project."""

    value = models.CharField(max_length=255, help_text="E.g. the name of a group at the identity provider.")
    project = models.ForeignKey(Project, on_delete=models.CASCADE)
    role = models.CharField(max_length=10, choices=Membership.Role, default=Membership.Role.MEMBER)
    issuer = models.CharField(
        max_length=255, blank=True, help_text="Only of this issuer, as it is configured; empty: of each."
    )

    class Meta:
        constraints = [models.UniqueConstraint(fields=["issuer", "value", "project"], name="claim_rule_once")]

    def __str__(self) -> str:
        return f"{self.value} → {self.role} of {self.project}"


class ApiToken(models.Model):
    """A bearer token, kept as a hash. The text is shown once; `prefix` is what people recognise it by."""

    class Scope(models.TextChoices):
        INFERENCE = "inference", "use models"
        READ = "read", "read requests, models and usage"
        FLEET = "fleet", "see the fleet and give it commands (operators)"

    user = models.ForeignKey(User, on_delete=models.CASCADE, related_name="tokens")
    project = models.ForeignKey(Project, on_delete=models.CASCADE, related_name="tokens")
    name = models.CharField(max_length=100)
    prefix = models.CharField(max_length=16, unique=True)
    digest = models.CharField(max_length=64, unique=True, help_text="SHA-256 of the token, hex.")
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(expires_at__gt=F("created_at")), name="token_expires_after_creation"
            )
        ]

    def __str__(self) -> str:
        return f"{self.prefix}… ({self.name})"


class Quota(models.Model):
    """The limits of one token, user, project or model. An empty limit is none; a subject without a quota has the
    site's (BERTH_LIMITS)."""

    class Level(models.TextChoices):
        TOKEN = "token"
        USER = "user"
        PROJECT = "project"
        MODEL = "model"

    level = models.CharField(max_length=7, choices=Level)
    token = models.OneToOneField(
        ApiToken, on_delete=models.CASCADE, null=True, blank=True, related_name="quota"
    )
    user = models.OneToOneField(User, on_delete=models.CASCADE, null=True, blank=True, related_name="quota")
    project = models.OneToOneField(
        Project, on_delete=models.CASCADE, null=True, blank=True, related_name="quota"
    )
    model = models.CharField(
        max_length=128, null=True, blank=True, unique=True, help_text="Name of the model."
    )
    requests_per_min = models.PositiveIntegerField(null=True, blank=True)
    tokens_per_min = models.PositiveIntegerField(
        null=True,
        blank=True,
        help_text="Estimated when a request comes, settled with what it used at its end.",
    )
    concurrent = models.PositiveIntegerField(
        null=True, blank=True, help_text="Requests on open connections at once, running or waiting."
    )
    queued = models.PositiveIntegerField(null=True, blank=True, help_text="Requests that wait at once.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(level="token", token__isnull=False, user=None, project=None, model=None)
                | Q(level="user", token=None, user__isnull=False, project=None, model=None)
                | Q(level="project", token=None, user=None, project__isnull=False, model=None)
                | Q(level="model", token=None, user=None, project=None, model__isnull=False),
                name="quota_one_subject_of_its_level",
                violation_error_message="A quota names one subject, the one of its level.",
            ),
            models.CheckConstraint(
                condition=(Q(requests_per_min=None) | Q(requests_per_min__gt=0))
                & (Q(tokens_per_min=None) | Q(tokens_per_min__gt=0)),
                name="quota_rates_positive",
                violation_error_message="A limit per minute is at least 1; empty is none.",
            ),
        ]

    def __str__(self) -> str:
        return f"quota of {self.level} {self.token or self.user or self.project or self.model}"
