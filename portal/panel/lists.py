"""What all lists of the admin share: they stay quick over tables that grow for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

from django.contrib import admin
from django.contrib.admin import helpers
from django.db.models import Model, QuerySet
from django.http import HttpRequest
from django.utils.html import format_html
from django.utils.safestring import SafeString

M = TypeVar("M", bound=Model)

_CHECKBOX = (
    '<input type="checkbox" name="{}" value="{}" class="action-select" '
    'aria-label="Select this object for an action - {}">'
)


class QuickListAdmin(admin.ModelAdmin[M]):
    """A list with pages of 50, and no second count for searches."""

    show_full_result_count = False
    list_per_page = 50

    def action_checkbox(self, obj: M) -> SafeString:
        """Return the box as HTML: Django draws a form's field in three templates for each row, which takes as long as
        four columns."""
        return format_html(_CHECKBOX, helpers.ACTION_CHECKBOX_NAME, obj.pk, obj)


def known(column: str, words: Callable[[], Iterable[str]]) -> type[admin.SimpleListFilter]:
    """Return a filter by the words that a column may hold. Django's own reads the whole table for those that it
    holds."""

    class Known(admin.SimpleListFilter):
        title = column.replace("_", " ")
        parameter_name = column

        def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
            return [(word, word) for word in words()]

        def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
            return queryset.filter(**{column: self.value()}) if self.value() else queryset

    return Known
