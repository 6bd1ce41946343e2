"""The shapes that go in and out of /api/v1, as the OpenAPI document shows them."""

from __future__ import annotations

from typing import Any

from rest_framework import serializers

from gpuworker.wire import ENDPOINTS, JSON
from portal.catalog.models import Pool
from portal.fleet.models import Command, Decision, Pilot, Replica
from portal.services import targets


class Seconds(serializers.FloatField):
    """A length of time in milliseconds' steps: more digits would be noise."""

    def to_representation(self, value: Any) -> float:  # type: ignore[override]  # a number, whatever the stubs say
        return round(float(value), 3)


class Submission(serializers.Serializer[Any]):
    """A request that nobody waits for on a connection."""

    model = serializers.CharField(max_length=128)
    api = serializers.ChoiceField(
        choices=sorted(path for path, endpoint in ENDPOINTS.items() if JSON in endpoint.content_types)
    )
    body = serializers.DictField(help_text="The body as it would be sent to `api`, without `stream`.")
    project = serializers.SlugField(
        required=False, default="", help_text="Needed only at the browser, by members of several projects."
    )
    priority = serializers.IntegerField(
        min_value=-1,
        max_value=1,
        default=None,
        help_text="Passes what your project has waiting with a lower one. Without it: your usual one in the project.",
    )


class PilotOfRequest(serializers.Serializer[Any]):
    job_id = serializers.IntegerField(allow_null=True)
    node = serializers.CharField()


class Timeline(serializers.Serializer[Any]):
    """The times of the steps, null where a step has not happened. The seconds add up to done − accepted."""

    accepted = serializers.DateTimeField()
    job_submitted = serializers.DateTimeField(allow_null=True)
    job_running = serializers.DateTimeField(allow_null=True)
    registered = serializers.DateTimeField(allow_null=True)
    engine_started = serializers.DateTimeField(allow_null=True)
    engine_ready = serializers.DateTimeField(allow_null=True)
    granted = serializers.DateTimeField(allow_null=True)
    first_token = serializers.DateTimeField(allow_null=True)
    done = serializers.DateTimeField(allow_null=True)
    pilot = PilotOfRequest(allow_null=True)
    queue_s = Seconds(allow_null=True)
    slurm_s = Seconds(allow_null=True)
    load_s = Seconds(allow_null=True)
    engine_s = Seconds(allow_null=True)


class Failure(serializers.Serializer[Any]):
    code = serializers.CharField()
    message = serializers.CharField()


class RequestBrief(serializers.Serializer[Any]):
    id = serializers.UUIDField()
    state = serializers.CharField()
    lane = serializers.CharField()
    model = serializers.CharField()
    api = serializers.CharField()
    stream = serializers.BooleanField()
    attempt = serializers.IntegerField()
    accepted_at = serializers.DateTimeField()
    ended_at = serializers.DateTimeField(allow_null=True)
    http_status = serializers.IntegerField(allow_null=True)
    prompt_tokens = serializers.IntegerField(allow_null=True)
    completion_tokens = serializers.IntegerField(allow_null=True)
    model_revision = serializers.CharField(allow_null=True, help_text="Of what served it; null: not known.")
    engine_version = serializers.CharField(allow_null=True)
    gpu_type = serializers.CharField(allow_null=True)
    error = Failure(allow_null=True)


class PartOut(serializers.Serializer[Any]):
    name = serializers.ChoiceField(choices=["quota", "queue", "slurm", "load"])
    text = serializers.CharField()
    seconds = Seconds(allow_null=True, help_text="What is left of it; null: unknown.")


class Why(serializers.Serializer[Any]):
    """The reason why a request does not run yet, and when it will."""

    reason = serializers.CharField()
    next_step = serializers.CharField(help_text="What to do about it; empty: nothing, it goes on by itself.")
    eta_s = Seconds(allow_null=True, help_text="Null: unknown.")
    parts = PartOut(many=True)


class RequestDetail(RequestBrief):
    position = serializers.IntegerField(allow_null=True, help_text="1 = next; null when it does not wait.")
    why = Why(allow_null=True, help_text="Null when it does not wait.")
    timeline = Timeline()
    result = serializers.JSONField(
        allow_null=True, help_text="The engine's answer, for its owner, while it is kept."
    )


class Phase(Why):
    residency = serializers.ChoiceField(choices=["ready", "starting", "not_loaded", "unavailable"])


class ModelOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    kind = serializers.CharField()
    context_tokens = serializers.IntegerField(allow_null=True)
    description = serializers.CharField()
    phase = Phase()


class ModelList(serializers.Serializer[Any]):
    results = ModelOut(many=True)


class ReplicaOut(serializers.ModelSerializer[Replica]):
    class Meta:
        model = Replica
        fields = [
            "id", "pool", "model", "engine", "state", "phase", "gpu_indices", "cap", "wanted_at", "started_at",
            "hot_at", "ended_at", "end_reason", "engine_version",
        ]  # fmt: skip


class PilotOut(serializers.ModelSerializer[Pilot]):
    profile = serializers.SlugRelatedField[Any](slug_field="name", read_only=True)
    replicas = ReplicaOut(many=True)

    class Meta:
        model = Pilot
        # Not its address: routes are opaque, and nobody but gateways dials them.
        fields = [
            "id", "cluster", "profile", "state", "job_name", "job_id", "node", "gpus", "nodes", "mem_mb", "walltime_min",
            "planned_at", "submitted_at", "job_started_at", "registered_at", "up_at", "draining_at", "ended_at",
            "end_reason", "slurm_state", "slurm_reason", "slurm_seen_at", "slurm_start_at", "slurm_end_at",
            "said_ending", "agent_version", "replicas",
        ]  # fmt: skip


class UnknownJobOut(serializers.Serializer[Any]):
    job_id = serializers.IntegerField()
    name = serializers.CharField()
    slurm = serializers.CharField(help_text="Its state, in words.")
    partition = serializers.CharField()
    nodes = serializers.CharField()
    since = serializers.DateTimeField()


class WayOut(serializers.Serializer[Any]):
    name = serializers.CharField(help_text="Of its access; empty: Slurm's commands on the portal's host.")
    answers = serializers.BooleanField()
    text = serializers.CharField(help_text="In words: does Slurm answer by it, and if not, what was heard.")
    tried_at = serializers.DateTimeField(allow_null=True)
    answered_at = serializers.DateTimeField(allow_null=True)


class ClusterOut(serializers.Serializer[Any]):
    name = serializers.CharField()
    paused = serializers.BooleanField()
    tried_at = serializers.DateTimeField(allow_null=True)
    answered_at = serializers.DateTimeField(allow_null=True)
    ticked_at = serializers.DateTimeField(allow_null=True)
    slurm_answers = serializers.BooleanField(help_text="By every way.")
    slurm = serializers.CharField(help_text="In words: does Slurm answer, and if not, since when.")
    loop_runs = serializers.BooleanField()
    loop = serializers.CharField()
    ways = WayOut(
        many=True, help_text="By which Slurm is reached. One that is silent holds its own profiles only."
    )
    unknown_jobs = UnknownJobOut(
        many=True,
        help_text="Jobs that carry this installation's name and that no row knows: adopt or reject them.",
    )


class FleetOut(serializers.Serializer[Any]):
    clusters = ClusterOut(many=True)
    pilots = PilotOut(many=True)


class WakeIn(serializers.Serializer[Any]):
    notify = serializers.BooleanField(
        default=False, help_text="Tell me when it is ready, by mail or webhook (page Notices)."
    )


class CommandIn(serializers.Serializer[Any]):
    kind = serializers.ChoiceField(choices=Command.Kind.choices)
    pilot = serializers.CharField(
        required=False, allow_null=True, default=None, help_text="Its id, job id or job name."
    )
    replica = serializers.CharField(required=False, allow_null=True, default=None, help_text="Its id.")
    pool = serializers.CharField(
        required=False, allow_null=True, default=None, help_text="Its name, or that of a model in it."
    )
    args = serializers.DictField(
        required=False,
        help_text="pin, wake: for_s (seconds). relaunch: profile, in place of a pool. adopt: job_id, profile. "
        "reject: job_id. adopt, reject, pause, resume: cluster, where there are several.",
    )

    def validate_pilot(self, word: str | None) -> Pilot | None:
        return targets.pilot(word) if word is not None else None

    def validate_replica(self, word: str | None) -> Replica | None:
        return targets.replica(word) if word is not None else None

    def validate_pool(self, word: str | None) -> Pool | None:
        return targets.pool(word) if word is not None else None


class CommandOut(serializers.ModelSerializer[Command]):
    created_by = serializers.SlugRelatedField[Any](slug_field="username", read_only=True)

    class Meta:
        model = Command
        fields = [
            "id", "kind", "pilot", "replica", "pool", "args", "state", "result", "created_by", "created_at",
            "done_at",
        ]  # fmt: skip


class DecisionOut(serializers.ModelSerializer[Decision]):
    class Meta:
        model = Decision
        fields = ["id", "at", "kind", "pool", "pilot", "replica", "reason", "inputs"]
