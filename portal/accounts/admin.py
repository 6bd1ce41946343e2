"""Admin pages for people, projects and tokens."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.contrib.auth.admin import UserAdmin
from django.contrib.auth.models import Group
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from portal import hints
from portal.accounts.issue import revoke
from portal.accounts.models import ApiToken, Membership, Project, Quota, User
from portal.dashboard.readonly import ReadOnlyAdmin


class MembershipInline(admin.TabularInline[Membership, User | Project]):
    model = Membership
    extra = 0
    autocomplete_fields = ["user", "project"]


@admin.register(User)
class PeopleAdmin(UserAdmin[User]):
    list_display = ["username", "email", "is_active", "is_operator", "is_staff", "last_login"]
    list_filter = ["is_active", "is_operator", "is_staff", "projects"]
    fieldsets = (*(UserAdmin.fieldsets or ()), ("Berth", {"fields": ["is_operator"]}))
    inlines = [MembershipInline]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        hints.directory_changed()  # a disabled user is turned away at once


@admin.register(Project)
class ProjectAdmin(admin.ModelAdmin[Project]):
    list_display = ["slug", "name", "weight", "is_active", "created_at"]
    list_filter = ["is_active"]
    search_fields = ["slug", "name"]
    readonly_fields = ["created_at"]
    inlines = [MembershipInline]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        hints.directory_changed()


@admin.register(Membership)
class MembershipAdmin(admin.ModelAdmin[Membership]):
    list_display = ["user", "project", "role"]
    list_filter = ["role", "project"]
    search_fields = ["user__username", "project__slug"]
    autocomplete_fields = ["user", "project"]
    list_select_related = ["user", "project"]


@admin.register(ApiToken)
class ApiTokenAdmin(ReadOnlyAdmin[ApiToken]):
    """Tokens may be revoked, never edited or deleted: the ledger refers to them."""

    list_display = ["prefix", "name", "user", "project", "scopes", "standing", "expires_at", "last_used_at"]
    list_filter = ["project", "revoked_at"]
    search_fields = ["prefix", "name", "user__username", "project__slug"]
    list_select_related = ["user", "project"]
    fields = [
        "prefix", "name", "user", "project", "scopes", "standing", "created_at", "expires_at", "revoked_at",
        "last_used_at",
    ]  # fmt: skip
    actions = ["revoke_tokens"]

    @admin.display(description="standing")
    def standing(self, token: ApiToken) -> str:
        if token.revoked_at is not None:
            return "revoked"
        return "live" if token.expires_at > timezone.now() else "expired"

    def has_revoke_permission(self, request: HttpRequest) -> bool:
        return request.user.has_perm("accounts.change_apitoken")

    @admin.action(description="Revoke the selected tokens", permissions=["revoke"])
    def revoke_tokens(self, request: HttpRequest, tokens: QuerySet[ApiToken]) -> None:
        ended = sum(revoke(token) for token in tokens)
        messages.success(request, f"{ended} tokens revoked.")


@admin.register(Quota)
class QuotaAdmin(admin.ModelAdmin[Quota]):
    list_display = [
        "level", "token", "user", "project", "model", "requests_per_min", "tokens_per_min", "concurrent", "queued",
    ]  # fmt: skip
    list_filter = ["level"]
    search_fields = ["token__prefix", "user__username", "project__slug", "model"]
    autocomplete_fields = ["token", "user", "project"]
    list_select_related = ["token", "user", "project"]

    def save_model(self, request: HttpRequest, obj: Quota, form: Any, change: bool) -> None:
        super().save_model(request, obj, form, change)
        hints.directory_changed()

    def delete_model(self, request: HttpRequest, obj: Quota) -> None:
        super().delete_model(request, obj)
        hints.directory_changed()


# Rights come from is_operator, memberships and scopes; a second system of groups would only confuse.
admin.site.unregister(Group)
