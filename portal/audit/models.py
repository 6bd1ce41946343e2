"""Who changed what of catalog, accounts, quotas and webhooks, and who gave the fleet which command. Rows are added, never
changed or deleted: the database refuses it."""

from __future__ import annotations

from django.db import models


class Change(models.Model):
    """One change of one row. It names no row by a foreign key: people and models go, what they did stays."""

    class Action(models.TextChoices):
        ADDED = "added"
        CHANGED = "changed"
        DELETED = "deleted"

    class Origin(models.TextChoices):
        ADMIN = "admin", "admin pages"
        API = "api", "API"
        PAGE = "page", "pages"
        COMMAND_LINE = "command line"
        PROGRAM = "program", "Berth itself"

    at = models.DateTimeField(auto_now_add=True, db_index=True)
    who = models.CharField(max_length=200, db_index=True)
    user_id = models.BigIntegerField(null=True, help_text="Number of the account, where there is one.")
    origin = models.CharField(max_length=12, choices=Origin)
    action = models.CharField(max_length=7, choices=Action)
    table = models.CharField(max_length=60, help_text="What kind of row, e.g. catalog.Profile.")
    key = models.CharField(max_length=200, db_index=True)
    name = models.CharField(max_length=200, db_index=True)
    fields = models.JSONField(default=dict, help_text="Field: old and new value.")

    class Meta:
        indexes = [models.Index(fields=["table", "key"], name="change_of_row")]

    def __str__(self) -> str:
        return f"{self.who} {self.action} {self.table} {self.name}"
