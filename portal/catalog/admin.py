"""Admin pages for what can be served, where and with what. The control loop and gateways read it within seconds."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils.safestring import SafeString

from portal import hints
from portal.api.commanding import Wish
from portal.catalog.models import Environment, Model, Pool, Profile
from portal.dashboard.readonly import command_each, link_list, may_command
from portal.fleet.models import Command


@admin.register(Environment)
class EnvironmentAdmin(admin.ModelAdmin[Environment]):
    list_display = ["name", "engine", "engine_version", "python"]
    list_filter = ["engine"]
    search_fields = ["name", "python"]


@admin.register(Profile)
class ProfileAdmin(admin.ModelAdmin[Profile]):
    list_display = [
        "name", "enabled", "cluster", "partition", "account", "gpu_type", "gpus", "walltime_min", "max_pilots",
        "charge", "link",
    ]  # fmt: skip
    list_filter = ["enabled", "cluster", "partition", "charge", "link"]
    search_fields = ["name", "partition", "account"]


@admin.register(Pool)
class PoolAdmin(admin.ModelAdmin[Pool]):
    list_display = [
        "name", "environment", "gpus", "cap", "min_replicas", "max_replicas", "keep_alive_s", "paused", "replicas",
        "decisions",
    ]  # fmt: skip
    list_filter = ["paused", "environment", "profiles"]
    search_fields = ["name"]
    list_select_related = ["environment"]
    filter_horizontal = ["profiles"]
    # The loop's commands move it, so that a pause leaves a trace of who and when.
    readonly_fields = ["paused"]
    actions = ["wake", "pin", "unpin", "evict", "test_launch", "relaunch", "pause", "resume"]

    def has_delete_permission(self, request: HttpRequest, obj: Pool | None = None) -> bool:
        """Replicas of the past refer to it."""
        return super().has_delete_permission(request, obj) and not (obj and obj.replicas.exists())

    def has_command_permission(self, request: HttpRequest) -> bool:
        return may_command(request)

    @admin.display(description="replicas")
    def replicas(self, pool: Pool) -> SafeString:
        return link_list("fleet_replica", f"pool__name={pool.name}", "replicas")

    @admin.display(description="decisions")
    def decisions(self, pool: Pool) -> SafeString:
        return link_list("fleet_decision", f"pool={pool.name}", "decisions")

    @admin.action(description="Wake: have them ready", permissions=["command"])
    def wake(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.WAKE, pool=pool) for pool in pools))

    @admin.action(description="Pin: keep them resident until unpinned", permissions=["command"])
    def pin(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.PIN, pool=pool) for pool in pools))

    @admin.action(description="Unpin", permissions=["command"])
    def unpin(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.UNPIN, pool=pool) for pool in pools))

    @admin.action(description="Evict: drain every replica", permissions=["command"])
    def evict(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.EVICT, pool=pool) for pool in pools))

    @admin.action(description="Test: start once, to see whether they work", permissions=["command"])
    def test_launch(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.TEST_LAUNCH, pool=pool) for pool in pools))

    @admin.action(description="Relaunch: clear the failure latch", permissions=["command"])
    def relaunch(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.RELAUNCH, pool=pool) for pool in pools))

    @admin.action(description="Pause: launch nothing", permissions=["command"])
    def pause(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.PAUSE, pool=pool) for pool in pools))

    @admin.action(description="Resume", permissions=["command"])
    def resume(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (Wish(Command.Kind.RESUME, pool=pool) for pool in pools))


@admin.register(Model)
class ModelAdmin(admin.ModelAdmin[Model]):
    list_display = ["name", "kind", "pool", "enabled", "is_public", "context_tokens", "path"]
    list_filter = ["enabled", "is_public", "kind", "pool"]
    search_fields = ["name", "path", "description"]
    list_select_related = ["pool"]
    filter_horizontal = ["projects"]
    readonly_fields = ["created_at"]

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        hints.directory_changed()
