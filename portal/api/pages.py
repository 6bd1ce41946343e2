"""A queryset → pages that stay right while rows are added at the front."""

from __future__ import annotations

from rest_framework.pagination import CursorPagination


class NewestFirst(CursorPagination):
    page_size = 50
    page_size_query_param = "page_size"
    max_page_size = 200
    ordering: str | tuple[str, ...] = ("-accepted_at", "-id")


class LastFirst(NewestFirst):
    """A pagination for tables whose ids rise with time."""

    ordering = ("-id",)
