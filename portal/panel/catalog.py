"""Admin pages for what can be served, where and with what. The control loop and gateways read it within seconds."""

from __future__ import annotations

from typing import Any

from django.contrib import admin, messages
from django.db.models import QuerySet
from django.forms import TypedChoiceField
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from django.utils.safestring import SafeString

from portal.catalog import cluster, doubts, rules
from portal.catalog.models import Access, Environment, Model, Pool, Profile
from portal.fleet.models import Command, WayState
from portal.panel.editable import EditableAdmin, M
from portal.panel.readonly import command_each, link, link_list, may_command
from portal.services.cluster_state import way_words
from portal.services.commands import NewCommand


class CatalogAdmin(EditableAdmin[M]):
    """Offer what is built, and warn of what may go wrong with a row, once it and what it refers to are saved."""

    def get_form(
        self, request: HttpRequest, obj: M | None = None, change: bool = False, **kwargs: Any
    ) -> Any:
        """Return the form without choices that are not built yet; a row that has one of them keeps it."""
        form = super().get_form(request, obj, change, **kwargs)
        for name, field in form.base_fields.items():
            if isinstance(field, TypedChoiceField):
                own = getattr(obj, name, None)
                offered: Any = field.choices
                field.choices = [pair for pair in offered if pair[0] not in rules.NOT_BUILT or pair[0] == own]
        return form

    def save_related(self, request: HttpRequest, form: Any, formsets: Any, change: bool) -> None:
        super().save_related(request, form, formsets, change)
        if doubt := doubts.of(form.instance):
            messages.warning(request, doubt)


@admin.register(Environment)
class EnvironmentAdmin(CatalogAdmin[Environment]):
    list_display = ["name", "engine", "engine_version", "python", "gpu_types"]
    list_filter = ["engine"]
    search_fields = ["name", "python", "image"]
    fieldsets = [
        (None, {"fields": ["name", "engine", "engine_version", "python", "gpu_types"]}),
        ("Before engines start", {"fields": ["prologue"]}),
        ("Apptainer", {"fields": ["image", "image_gpu", "image_binds"]}),
    ]


@admin.register(Access)
class AccessAdmin(CatalogAdmin[Access]):
    list_display = ["name", "kind", "cluster", "address", "submit_prefix", "hears"]
    list_filter = ["kind", "cluster"]
    search_fields = ["name", "cluster", "address"]
    readonly_fields = ["hears"]
    fieldsets = [
        (None, {"fields": ["name", "cluster", "kind", "hears"]}),
        ("Slurm's commands, or the pyslurm helper", {"fields": ["submit_prefix", "conf", "python"]}),
        ("slurmrestd", {"fields": ["address", "user", "token_file", "token_command"]}),
        (
            "Paths on compute nodes, where they differ from the portal's",
            {"fields": ["spool", "agent_python", "agent_home"]},
        ),
    ]

    @admin.display(description="status")
    def hears(self, access: Access) -> str:
        """Return what the control loop heard; it asks only while an enabled profile or a live job uses the access."""
        # One that is not saved has no name, as the portal's own commands have none.
        row = WayState.objects.filter(cluster=access.cluster, name=access.name).first() if access.pk else None
        return way_words(row, timezone.now()) if row is not None else "It has not been used yet."


@admin.register(Profile)
class ProfileAdmin(CatalogAdmin[Profile]):
    list_display = ["name", "enabled", "place", "asks_for", "walltime_min", "max_pilots", "cost"]
    list_filter = ["enabled", "cluster", "access", "partition", "charge", "preemptible", "link"]
    search_fields = ["name", "partition", "account"]
    list_select_related = ["project"]
    autocomplete_fields = ["project", "access"]
    readonly_fields = ["slurm"]
    fieldsets = [
        (None, {"fields": ["name", "enabled", "slurm"]}),
        (
            "Where jobs run",
            {
                "fields": [
                    "access", "cluster", "partition", "account", "qos", "constraint", "reservation", "preemptible",
                ],
            },
        ),
        ("Resources of each job", {"fields": ["gpu_type", "gpus", "nodes", "cpus", "mem_mb", "max_pilots"]}),
        (
            "Directives",
            {
                "fields": [
                    "gpu_request", "gpu_type_asked", "mem_request", "licenses", "exclusive", "nice", "wckey", "extra",
                ],
                "classes": ["collapse"],
            },
        ),
        ("Walltime", {"fields": ["walltime_min", "walltime_least_min"]}),
        ("Cost", {"fields": ["cost", "charge", "project"]}),
        (
            "Network, files and shell",
            {
                "fields": [
                    "link", "prologue", "door_address", "door_ports", "portal_url_from_nodes", "scratch", "agent_python",
                ],
                "classes": ["collapse"],
            },
        ),
    ]  # fmt: skip

    @admin.display(description="placement", ordering="partition")
    def place(self, profile: Profile) -> str:
        named = {"account": profile.account, "QOS": profile.qos, "charged to": profile.project or ""}
        words = [f"{word} {name}" for word, name in named.items() if name]
        return ", ".join([profile.partition, *words, *(["preemptible"] if profile.preemptible else [])])

    @admin.display(description="resources of each job", ordering="gpus")
    def asks_for(self, profile: Profile) -> str:
        on_one = f"{profile.gpus} × {profile.gpu_type or 'GPU'}" if profile.gpus else "CPUs only"
        return on_one if profile.nodes == 1 else f"{on_one}, on up to {profile.nodes} nodes"

    @admin.display(description="partitions and accounts")
    def slurm(self, profile: Profile) -> SafeString | str:
        """Return the partitions and accounts that Slurm has, so that nobody has to guess names; what is written is
        checked against the same facts."""
        facts = cluster.known(profile.cluster)
        if facts is None:
            return "The control loop has not queried Slurm yet: names are not checked."
        rows = [
            (one.name, _described(one)) for one in sorted(facts.partitions.values(), key=lambda one: one.name)
        ]
        if facts.accounts:
            rows.append(
                (
                    "accounts",
                    ", ".join(f"{name} (QOS {' '.join(qos)})" for name, qos in facts.accounts.items()),
                )
            )
        return format_html("<ul>{}</ul>", format_html_join("", "<li><strong>{}</strong>: {}</li>", rows))


def _described(partition: cluster.Partition) -> str:
    gpus = ", ".join(f"{most} × {kind or 'GPU'}" for kind, most in sorted(partition.gpus.items())) or "no GPU"
    limit = f"at most {partition.limit_min} min" if partition.limit_min is not None else "no time limit"
    return f"{partition.nodes} nodes, {gpus} on one, {limit}{'' if partition.up else ', DOWN'}"


@admin.register(Pool)
class PoolAdmin(CatalogAdmin[Pool]):
    list_display = [
        "name", "base", "environment", "gpus", "cap", "min_replicas", "max_replicas", "keep_alive_s", "paused",
        "replicas", "decisions",
    ]  # fmt: skip
    list_filter = ["paused", "environment", "profiles"]
    search_fields = ["name"]
    list_select_related = ["environment", "base"]
    filter_horizontal = ["profiles"]
    # The loop's commands move it, so that a pause leaves a trace of who and when.
    readonly_fields = ["base", "paused"]
    fieldsets = [
        (None, {"fields": ["name", "base", "environment", "profiles", "paused"]}),
        ("One replica", {"fields": ["gpus", "nodes", "mem_mb", "cap", "args"]}),
        ("Replicas and keep-alive", {"fields": ["min_replicas", "max_replicas", "keep_alive_s"]}),
        ("Loading and draining", {"fields": ["load_estimate_s", "load_limit_s", "drain_limit_s"]}),
        ("Sleep", {"fields": ["sleep_level", "asleep_mem_mb"]}),
    ]
    actions = ["wake", "pin", "unpin", "evict", "test_launch", "relaunch", "pause", "resume"]

    def has_delete_permission(self, request: HttpRequest, obj: Pool | None = None) -> bool:
        """Refuse to delete a pool that replicas of the past refer to."""
        return super().has_delete_permission(request, obj) and not (obj and obj.replicas.exists())

    def has_command_permission(self, request: HttpRequest) -> bool:
        return may_command(request)

    @admin.display(description="replicas")
    def replicas(self, pool: Pool) -> SafeString:
        return link_list("fleet_replica", f"pool__name={pool.name}", "replicas")

    @admin.display(description="decisions")
    def decisions(self, pool: Pool) -> SafeString:
        return link_list("fleet_decision", f"pool={pool.name}", "decisions")

    @admin.action(description="Wake: load, so that they are ready", permissions=["command"])
    def wake(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.WAKE, pool=pool) for pool in pools))

    @admin.action(description="Pin: keep them resident until unpinned", permissions=["command"])
    def pin(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.PIN, pool=pool) for pool in pools))

    @admin.action(description="Unpin", permissions=["command"])
    def unpin(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.UNPIN, pool=pool) for pool in pools))

    @admin.action(description="Evict: drain every replica", permissions=["command"])
    def evict(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.EVICT, pool=pool) for pool in pools))

    @admin.action(description="Test: launch once, to check that they work", permissions=["command"])
    def test_launch(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.TEST_LAUNCH, pool=pool) for pool in pools))

    @admin.action(description="Relaunch: clear the failure latch", permissions=["command"])
    def relaunch(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.RELAUNCH, pool=pool) for pool in pools))

    @admin.action(description="Pause: launch nothing", permissions=["command"])
    def pause(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.PAUSE, pool=pool) for pool in pools))

    @admin.action(description="Resume", permissions=["command"])
    def resume(self, request: HttpRequest, pools: QuerySet[Pool]) -> None:
        command_each(request, (NewCommand(Command.Kind.RESUME, pool=pool) for pool in pools))


@admin.register(Model)
class ModelAdmin(CatalogAdmin[Model]):
    list_display = ["name", "kind", "of_pool", "enabled", "is_public", "context_tokens", "path"]
    list_filter = ["enabled", "is_public", "kind", "pool__environment"]
    search_fields = ["name", "path", "description"]
    list_select_related = ["pool"]
    autocomplete_fields = ["pool", "projects", "registered_for"]
    readonly_fields = ["created_at"]
    fieldsets = [
        (None, {"fields": ["name", "enabled", "kind", "pool", "description", "created_at"]}),
        ("Weights", {"fields": ["path", "revision", "context_tokens", "registered_for"]}),
        ("Visibility", {"fields": ["is_public", "projects"]}),
    ]

    @admin.display(description="pool", ordering="pool")
    def of_pool(self, model: Model) -> SafeString | str:
        return link("catalog_pool", model.pool_id)
