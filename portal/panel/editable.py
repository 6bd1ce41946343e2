"""Admin pages for tables that people write: gateways and the control loop hear of every change at once.

Separate from `readonly`, whose tables no person writes.
"""

from __future__ import annotations

from typing import Any, TypeVar

from django.db import transaction
from django.db.models import Model, QuerySet
from django.http import HttpRequest

from portal.panel.lists import QuickListAdmin
from portal.redis import hints

M = TypeVar("M", bound=Model)


class EditableAdmin(QuickListAdmin[M]):
    """Tell those who read the table of a change, once it is committed."""

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        _tell()

    def delete_model(self, request: HttpRequest, obj: M) -> None:
        super().delete_model(request, obj)
        _tell()

    def delete_queryset(self, request: HttpRequest, queryset: QuerySet[M]) -> None:
        super().delete_queryset(request, queryset)
        _tell()


def _tell() -> None:
    """Tell them once it is committed: who reads at once must find it."""
    transaction.on_commit(hints.directory_changed)
    transaction.on_commit(hints.tick_soon)
