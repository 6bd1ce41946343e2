"""Admin pages for the fleet: what the control loop and the agents wrote, and actions that write commands."""

from __future__ import annotations

from django.contrib import admin
from django.db.models import QuerySet
from django.http import HttpRequest
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import (
    BadNode,
    Candidate,
    Cluster,
    Command,
    Decision,
    Fit,
    FleetEvent,
    GpuClaim,
    Pilot,
    PilotLog,
    PoolState,
    ProfileState,
    Replica,
    Sample,
    WayState,
)
from portal.fleet.states import PilotState, ReplicaState
from portal.panel.lists import known
from portal.panel.readonly import ReadOnlyAdmin, command_each, link, link_list, short
from portal.services.commands import NewCommand


def clusters() -> list[str]:
    return list(Cluster.objects.order_by("name").values_list("name", flat=True))


@admin.register(Pilot)
class PilotAdmin(ReadOnlyAdmin[Pilot]):
    list_display = [
        "pilot", "state", "job_id", "slurm_state", "slurm_reason", "node", "profile", "planned_at", "slurm_end_at",
        "about",
    ]  # fmt: skip
    list_filter = ["state", known("cluster", clusters), "profile", "slurm_state"]
    search_fields = ["job_name", "=job_id", "node"]
    list_select_related = ["profile"]
    ordering = ["-planned_at"]
    # Not its address: routes are opaque and for gateways only.
    exclude = ["address"]
    readonly_fields = ["about"]
    actions = ["drain", "cancel", "fetch_log"]

    @admin.display(description="pilot", ordering="job_name")
    def pilot(self, pilot: Pilot) -> str:
        return short(pilot.id)

    @admin.display(description="related")
    def about(self, pilot: Pilot) -> SafeString:
        return format_html(
            '{} · {} · {} · <a href="{}">log</a>',
            link_list("fleet_replica", f"pilot__id={pilot.id}", "replicas"),
            link_list("fleet_decision", f"pilot={pilot.id}", "decisions"),
            link_list("fleet_fleetevent", f"pilot={pilot.id}", "state changes"),
            reverse("fleet-pilot", args=[pilot.id]),
        )

    @admin.action(description="Drain: finish running requests, then end the job", permissions=["command"])
    def drain(self, request: HttpRequest, pilots: QuerySet[Pilot]) -> None:
        command_each(request, (NewCommand(Command.Kind.DRAIN, pilot=pilot) for pilot in pilots))

    @admin.action(description="Cancel the job at once", permissions=["command"])
    def cancel(self, request: HttpRequest, pilots: QuerySet[Pilot]) -> None:
        command_each(request, (NewCommand(Command.Kind.CANCEL, pilot=pilot) for pilot in pilots))

    @admin.action(description="Fetch the log", permissions=["command"])
    def fetch_log(self, request: HttpRequest, pilots: QuerySet[Pilot]) -> None:
        command_each(request, (NewCommand(Command.Kind.LOG, pilot=pilot) for pilot in pilots))


@admin.register(Replica)
class ReplicaAdmin(ReadOnlyAdmin[Replica]):
    list_display = [
        "id",
        "model",
        "pool",
        "state",
        "phase",
        "engine",
        "of_pilot",
        "wanted_at",
        "hot_at",
        "end_reason",
    ]
    list_filter = ["state", "engine"]
    search_fields = ["=id", "model", "pilot__job_name"]
    list_select_related = ["pilot", "pool"]
    ordering = ["-wanted_at"]
    actions = ["drain"]

    @admin.display(description="pilot")
    def of_pilot(self, replica: Replica) -> SafeString | str:
        return link("fleet_pilot", replica.pilot_id, replica.pilot.job_name)

    @admin.action(description="Drain: finish running requests, then stop", permissions=["command"])
    def drain(self, request: HttpRequest, replicas: QuerySet[Replica]) -> None:
        command_each(request, (NewCommand(Command.Kind.DRAIN, replica=replica) for replica in replicas))


@admin.register(GpuClaim)
class GpuClaimAdmin(ReadOnlyAdmin[GpuClaim]):
    list_display = ["pilot", "gpu", "replica"]
    search_fields = ["pilot__job_name", "replica__model"]
    list_select_related = ["pilot", "replica"]


@admin.register(PoolState)
class PoolStateAdmin(ReadOnlyAdmin[PoolState]):
    list_display = [
        "pool",
        "failures",
        "retry_at",
        "latched_at",
        "pinned_until",
        "reason",
        "load_s",
        "service_s",
    ]
    list_filter = ["latched_at"]
    search_fields = ["pool__name"]
    list_select_related = ["pool"]


@admin.register(Fit)
class FitAdmin(ReadOnlyAdmin[Fit]):
    list_display = ["pool", "gpu_type", "fits", "load_s", "service_s", "note", "updated_at"]
    list_filter = ["gpu_type", "fits"]
    search_fields = ["pool__name"]


@admin.register(ProfileState)
class ProfileStateAdmin(ReadOnlyAdmin[ProfileState]):
    list_display = ["profile", "wait_p50_s", "wait_p90_s", "starts_at", "latched_at", "reason"]
    list_select_related = ["profile"]
    actions = ["relaunch"]

    @admin.action(description="Relaunch: submit jobs with them again", permissions=["command"])
    def relaunch(self, request: HttpRequest, states: QuerySet[ProfileState]) -> None:
        command_each(
            request,
            (NewCommand(Command.Kind.RELAUNCH, args={"profile": state.profile.name}) for state in states),
        )


@admin.register(BadNode)
class BadNodeAdmin(ReadOnlyAdmin[BadNode]):
    list_display = ["node", "cluster", "failures", "excluded_until", "reason"]
    list_filter = ["cluster"]
    search_fields = ["node"]


@admin.register(Command)
class CommandAdmin(ReadOnlyAdmin[Command]):
    """The page of commands. They are written by the actions of pilots, replicas, pools and clusters, which know what
    fits together."""

    list_display = [
        "id", "kind", "pilot", "replica", "pool", "args", "state", "result", "created_by", "created_at",
    ]  # fmt: skip
    list_filter = ["state", "kind"]
    search_fields = ["pilot__job_name", "pool__name", "created_by__username"]
    list_select_related = ["pilot", "replica", "pool", "created_by"]
    ordering = ["-id"]


@admin.register(Decision)
class DecisionAdmin(ReadOnlyAdmin[Decision]):
    list_display = ["at", "kind", "pool", "of_pilot", "reason"]
    list_filter = [known("kind", lambda: DecisionKind), "at"]
    search_fields = ["=pilot", "=pool"]
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description="pilot")
    def of_pilot(self, decision: Decision) -> SafeString | str:
        return link("fleet_pilot", decision.pilot, short(decision.pilot))


@admin.register(FleetEvent)
class FleetEventAdmin(ReadOnlyAdmin[FleetEvent]):
    list_display = ["at", "of_pilot", "of_replica", "old", "new", "detail"]
    list_filter = [known("new", lambda: dict.fromkeys([*map(str, PilotState), *map(str, ReplicaState)]))]
    search_fields = ["=pilot"]
    ordering = ["-id"]
    sortable_by = ()

    @admin.display(description="pilot")
    def of_pilot(self, event: FleetEvent) -> SafeString | str:
        return link("fleet_pilot", event.pilot, short(event.pilot))

    @admin.display(description="replica")
    def of_replica(self, event: FleetEvent) -> SafeString | str:
        return link("fleet_replica", event.replica, short(event.replica))


@admin.register(Candidate)
class CandidateAdmin(ReadOnlyAdmin[Candidate]):
    """The page of models on their way into the catalog; the dashboard moves them."""

    list_display = [
        "name",
        "project",
        "profile",
        "path",
        "created_by",
        "created_at",
        "found_at",
        "model",
        "approval",
    ]
    list_filter = [
        "approval",
        ("found_at", admin.EmptyFieldListFilter),
        ("model", admin.EmptyFieldListFilter),
    ]
    search_fields = ["name", "path", "project__slug", "created_by__username"]
    list_select_related = ["project", "profile", "created_by", "model"]
    ordering = ["-id"]


@admin.register(PilotLog)
class PilotLogAdmin(ReadOnlyAdmin[PilotLog]):
    list_display = ["pilot", "at"]
    search_fields = ["pilot__job_name"]
    list_select_related = ["pilot"]


@admin.register(Cluster)
class ClusterAdmin(ReadOnlyAdmin[Cluster]):
    list_display = ["name", "paused", "facts_at", "ticked_at"]
    actions = ["pause", "resume"]

    @admin.action(description="Pause: nothing is launched in these clusters", permissions=["command"])
    def pause(self, request: HttpRequest, clusters: QuerySet[Cluster]) -> None:
        command_each(
            request, (NewCommand(Command.Kind.PAUSE, args={"cluster": row.name}) for row in clusters)
        )

    @admin.action(description="Resume", permissions=["command"])
    def resume(self, request: HttpRequest, clusters: QuerySet[Cluster]) -> None:
        command_each(
            request, (NewCommand(Command.Kind.RESUME, args={"cluster": row.name}) for row in clusters)
        )


@admin.register(WayState)
class WayStateAdmin(ReadOnlyAdmin[WayState]):
    list_display = ["said", "cluster", "tried_at", "answered_at", "error"]
    list_filter = ["cluster"]
    exclude = ["jobs"]


@admin.register(Sample)
class SampleAdmin(ReadOnlyAdmin[Sample]):
    list_display = [
        "at",
        "cluster",
        "busy",
        "ready",
        "loading",
        "empty",
        "asked",
        "running",
        "wait_p50_s",
        "wait_p95_s",
    ]
    list_filter = [known("cluster", clusters)]
    ordering = ["-at"]
