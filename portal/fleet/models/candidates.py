"""Folders that people want to register as models, and what a pilot found there."""

from __future__ import annotations

from django.db import models
from django.db.models import Q

from portal.accounts.models import Project, User
from portal.catalog.models import Model, Profile, model_name
from portal.fleet.models.pilots import Pilot


class Candidate(models.Model):
    """A model before it is one: named by a person, looked at by a pilot, then saved into the catalog by a person.

    Writers: pages (what is wished, what it became), the control loop (which pilot looks), the worker API (what was
    found). Where it stands follows from which of them have written.
    """

    name = models.CharField(max_length=128, validators=[model_name])
    path = models.CharField(max_length=500, help_text="Folder as seen on compute nodes.")
    project = models.ForeignKey(Project, on_delete=models.PROTECT, related_name="candidates")
    profile = models.ForeignKey(
        Profile, on_delete=models.PROTECT, help_text="Where it is looked at, and will run."
    )
    created_by = models.ForeignKey(User, on_delete=models.SET_NULL, null=True, blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    pilot = models.ForeignKey(
        Pilot, on_delete=models.SET_NULL, null=True, blank=True, help_text="Whose agent looks at it."
    )
    asked_at = models.DateTimeField(null=True, blank=True, help_text="When that pilot was chosen.")
    jobs = models.PositiveSmallIntegerField(default=0, help_text="Pilots that were chosen so far.")
    found = models.JSONField(null=True, blank=True, help_text="What its folder says of it.")
    error = models.TextField(blank=True, help_text="Why nothing was found.")
    found_at = models.DateTimeField(null=True, blank=True)

    model = models.OneToOneField(
        Model, on_delete=models.SET_NULL, null=True, blank=True, related_name="candidate"
    )
    approval = models.BooleanField(default=False, help_text="The model waits for an operator's approval.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(found_at=None, found=None, error="")
                | Q(found_at__isnull=False, found__isnull=False, error="")
                | (Q(found_at__isnull=False, found=None) & ~Q(error="")),
                name="candidate_found_or_error",
            ),
            models.CheckConstraint(
                condition=Q(model=None) | Q(found__isnull=False), name="candidate_saved_was_found"
            ),
        ]
        indexes = [
            models.Index(fields=["pilot"], condition=Q(found_at=None), name="candidate_looked_at"),
        ]

    def __str__(self) -> str:
        return self.name
