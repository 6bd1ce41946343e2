"""Admin pages for tables that a person must not write, and the buttons with which operators write commands."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar
from uuid import UUID

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.core.paginator import Paginator
from django.db.models import Field, Model, Q, QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.functional import cached_property
from django.utils.html import format_html
from django.utils.safestring import SafeString

from portal.accounts.models import User
from portal.panel.lists import QuickListAdmin
from portal.services.commands import NewCommand, give

M = TypeVar("M", bound=Model)


class FewPages(Paginator[M]):
    """Count no further than the pages that anybody turns: a whole count of a large table costs more than a page."""

    MOST = 10_000

    @cached_property
    def count(self) -> int:
        rows = self.object_list
        assert isinstance(rows, QuerySet)
        return int(rows.order_by()[: self.MOST].count())


class ReadOnlyAdmin(QuickListAdmin[M]):
    """List and show; add, change and delete nothing. Such tables grow for ever: no list reads a whole one."""

    paginator = FewPages

    def get_search_results(
        self, request: HttpRequest, queryset: QuerySet[M], search_term: str
    ) -> tuple[QuerySet[M], bool]:
        """Search `=name` by the very value, so that an index serves it: Django would compare texts in lower case."""
        fields = list(self.get_search_fields(request))
        if not search_term or not all(name.startswith("=") for name in fields):
            return super().get_search_results(request, queryset, search_term)
        found = Q(pk__in=())
        for name in (name.removeprefix("=") for name in fields):
            field = self.model._meta.get_field(name)
            assert isinstance(field, Field)
            try:
                found |= Q(**{name: field.to_python(search_term.strip())})
            except ValidationError:
                continue  # no such value, e.g. a word where there are UUIDs
        return queryset.filter(found), False

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        return False

    def has_command_permission(self, request: HttpRequest) -> bool:
        """Say whether this person may use actions that write commands."""
        return may_command(request)


def may_command(request: HttpRequest) -> bool:
    return isinstance(request.user, User) and request.user.operates


def command_each(request: HttpRequest, wishes: Iterable[NewCommand]) -> None:
    """Write the commands and tell how many were written, and why the others were not."""
    assert isinstance(request.user, User)
    given = 0
    for wish in wishes:
        try:
            give(wish, request.user)
            given += 1
        except ValidationError as error:
            messages.error(request, " ".join(error.messages))
    if given:
        messages.success(
            request, f"{given} commands queued; the control loop carries them out at its next tick."
        )


def link(table: str, key: Any, text: str = "") -> SafeString | str:
    """Return a link to the admin page of one row of a table, for instance of `fleet_pilot`."""
    if key is None:
        return "–"
    return format_html('<a href="{}">{}</a>', reverse(f"admin:{table}_change", args=[key]), text or str(key))


def link_list(table: str, query: str, text: str) -> SafeString:
    """Return a link to a filtered list."""
    return format_html('<a href="{}?{}">{}</a>', reverse(f"admin:{table}_changelist"), query, text)


def short(key: UUID | None) -> str:
    return str(key)[:8] if key else "–"


def is_uuid(word: str) -> bool:
    try:
        UUID(word.strip())
    except ValueError:
        return False
    return True
