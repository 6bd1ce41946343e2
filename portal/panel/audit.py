"""The audit log, for administrators: to be searched, never written."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import Model
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from portal.audit.models import Change
from portal.audit.signals import WATCHED
from portal.panel.lists import known
from portal.panel.readonly import ReadOnlyAdmin

MOST_LINES = 4  # of the list; a row's own page has all
MOST_TEXT = 500


def label(table: type[Model]) -> str:
    return table._meta.label


@admin.register(Change)
class ChangeAdmin(ReadOnlyAdmin[Change]):
    list_display = ["at", "who", "origin", "did", "in_short"]
    list_filter = ["origin", "action", known("table", lambda: sorted(map(label, WATCHED))), "at"]
    search_fields = ["=who", "=name", "=key"]
    search_help_text = "The exact user name, or the exact name or key of the row that was changed."
    ordering = ["-id"]
    sortable_by = ()
    fields = ["at", "who", "origin", "action", "table", "key", "name", "what"]

    @admin.display(description="what")
    def did(self, change: Change) -> str:
        return f"{change.get_action_display()} {change.table} {change.name}"

    @admin.display(description="old → new")
    def in_short(self, change: Change) -> SafeString:
        return _lines(change, MOST_LINES)

    @admin.display(description="old → new")
    def what(self, change: Change) -> SafeString:
        return _lines(change, len(change.fields))


def _lines(change: Change, most: int) -> SafeString:
    """Return the first fields; the row's own page has all of them."""
    added = change.action == Change.Action.ADDED
    lines = [
        f"{name}: {_shown(new)}" if added else f"{name}: {_shown(old)} → {_shown(new)}"
        for name, (old, new) in change.fields.items()
    ]
    more = [f"and {len(lines) - most} more"] if len(lines) > most else []
    return format_html(
        "<ul>{}</ul>", format_html_join("", "<li>{}</li>", ((line,) for line in lines[:most] + more))
    )


def _shown(value: object) -> str:
    text = "(empty)" if value in (None, "", [], {}) else str(value)
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]}…"
