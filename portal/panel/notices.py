"""Admin pages of notices: what was told whom, and what became of it."""

from __future__ import annotations

from urllib.parse import urlsplit

from django.contrib import admin

from portal.notices.models import Delivery, OptOut, Webhook, Wish
from portal.panel.readonly import ReadOnlyAdmin


@admin.register(Delivery)
class DeliveryAdmin(ReadOnlyAdmin[Delivery]):
    list_display = ["created_at", "kind", "user", "webhook", "state", "attempts", "next_at", "error"]
    list_filter = ["state", "kind"]
    search_fields = ["user__username", "subject"]
    list_select_related = ["user", "webhook__user", "webhook__project"]


@admin.register(Webhook)
class WebhookAdmin(ReadOnlyAdmin[Webhook]):
    """The page of webhooks, without the path of the address, which with many services is all one needs to speak
    there."""

    list_display = ["user", "project", "host", "created_at"]
    search_fields = ["user__username", "project__slug"]
    list_select_related = ["user", "project"]
    fields = ["user", "project", "host", "created_at"]

    @admin.display
    def host(self, hook: Webhook) -> str:
        return urlsplit(hook.url).hostname or "–"


@admin.register(OptOut)
class OptOutAdmin(ReadOnlyAdmin[OptOut]):
    list_display = ["user", "kind"]
    search_fields = ["user__username"]
    list_select_related = ["user"]


@admin.register(Wish)
class WishAdmin(ReadOnlyAdmin[Wish]):
    list_display = ["user", "model", "created_at"]
    search_fields = ["user__username", "model"]
    list_select_related = ["user"]
