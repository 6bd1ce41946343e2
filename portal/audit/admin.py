"""The audit log, for administrators: to be searched, never written."""

from __future__ import annotations

from django.contrib import admin
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from portal.audit.models import Change
from portal.dashboard.readonly import ReadOnlyAdmin


@admin.register(Change)
class ChangeAdmin(ReadOnlyAdmin[Change]):
    list_display = ["at", "who", "origin", "action", "table", "name", "what"]
    list_filter = ["origin", "action", ("table", admin.AllValuesFieldListFilter), "at"]
    search_fields = ["who", "name", "=key", "table"]
    search_help_text = "Who, or the name of what was changed."
    date_hierarchy = "at"
    ordering = ["-id"]
    show_full_result_count = False
    list_per_page = 50
    fields = ["at", "who", "origin", "action", "table", "key", "name", "what"]

    @admin.display(description="old → new")
    def what(self, change: Change) -> SafeString | str:
        rows = [(name, _shown(old), _shown(new)) for name, (old, new) in change.fields.items()]
        if change.action == Change.Action.ADDED:
            lines = format_html_join("", "<li>{}: {}</li>", ((name, new) for name, _, new in rows))
        elif change.action == Change.Action.DELETED:
            return "–"
        else:
            lines = format_html_join("", "<li>{}: {} → {}</li>", rows)
        return format_html("<ul>{}</ul>", lines)


def _shown(value: object) -> str:
    return "(empty)" if value in (None, "", [], {}) else str(value)
