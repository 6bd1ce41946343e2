"""What is served: models, and the pools that share replicas and a queue."""

from __future__ import annotations

from django.db import models
from django.db.models import F, Q

from portal.accounts.models import Project
from portal.catalog import rules
from portal.catalog.models.environments import Environment
from portal.catalog.models.names import model_name
from portal.catalog.models.profiles import Profile


class Pool(models.Model):
    """What shares replicas and a queue: a base model with its adapters, or a group of dnn models."""

    name = models.CharField(max_length=128, primary_key=True, validators=[model_name])
    environment = models.ForeignKey(Environment, on_delete=models.PROTECT)
    profiles: models.ManyToManyField[Profile, models.Model] = models.ManyToManyField(
        Profile, help_text="Where its replicas may run."
    )
    gpus = models.PositiveSmallIntegerField(
        default=1, help_text="GPUs of one replica, on each of its nodes; 0: it runs on CPUs only."
    )
    nodes = models.PositiveSmallIntegerField(
        default=1,
        help_text="Nodes of one replica. Over several it takes whole jobs of so many, with exactly its GPUs on each.",
    )
    mem_mb = models.PositiveIntegerField(
        default=8_000, help_text="Host memory of one replica, on each node, MiB."
    )
    cap = models.PositiveSmallIntegerField(default=32, help_text="Requests in flight per replica.")
    min_replicas = models.PositiveSmallIntegerField(default=0)
    max_replicas = models.PositiveSmallIntegerField(default=1)
    keep_alive_s = models.PositiveIntegerField(
        default=600, help_text="Idle seconds before a replica is let go."
    )
    load_limit_s = models.PositiveIntegerField(
        default=3600, help_text="Seconds after which a load has failed."
    )
    drain_limit_s = models.PositiveIntegerField(
        default=120, help_text="Seconds that running work gets on a drain."
    )
    load_estimate_s = models.FloatField(default=240, help_text="Usual load time until it has been measured.")
    paused = models.BooleanField(default=False, help_text="Accepts requests, launches nothing.")
    sleep_level = models.PositiveSmallIntegerField(
        default=0,
        help_text="How deep its engine may sleep instead of stopping: 0 not at all, 1 weights in host memory, 2 dropped.",
    )
    asleep_mem_mb = models.PositiveIntegerField(
        default=0, help_text="Host memory that it holds asleep, MiB, until that has been measured."
    )
    args = models.JSONField(default=dict, blank=True, help_text="Engine arguments; unknown ones are refused.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(cap__gt=0),
                name="pool_has_cap",
                violation_error_message="cap is at least 1.",
            ),
            models.CheckConstraint(
                condition=Q(nodes=1) | (Q(nodes__gt=1) & Q(gpus__gt=0) & Q(sleep_level=0)),
                name="pool_over_nodes_has_gpus_and_does_not_sleep",
                violation_error_message="A model over several nodes has GPUs on each, and does not sleep.",
            ),
            models.CheckConstraint(
                condition=Q(max_replicas__gte=F("min_replicas")) & Q(max_replicas__gt=0),
                name="pool_replica_bounds",
                violation_error_message="max_replicas is at least 1, and at least min_replicas.",
            ),
            models.CheckConstraint(
                condition=Q(sleep_level__lte=2),
                name="pool_sleep_level_known",
                violation_error_message="sleep_level is 0, 1 or 2.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        rules.arguments("args", self.args)
        rules.at_least_one("nodes", self.nodes)
        engine = Environment.objects.filter(pk=self.environment_id).values_list("engine", flat=True).first()
        rules.parallel(engine or "", self.nodes, self.gpus, self.args)


class Model(models.Model):
    """Something servable, addressed by its name."""

    class Kind(models.TextChoices):
        LLM = "llm", "language model (vLLM)"
        DNN = "dnn", "deep network (torch)"

    name = models.CharField(max_length=128, unique=True, validators=[model_name])
    kind = models.CharField(max_length=5, choices=Kind, default=Kind.LLM)
    pool = models.ForeignKey(Pool, on_delete=models.PROTECT, related_name="served")
    path = models.CharField(max_length=500, blank=True, help_text="Folder as seen on compute nodes.")
    revision = models.CharField(max_length=100, blank=True)
    context_tokens = models.PositiveIntegerField(null=True, blank=True)
    enabled = models.BooleanField(default=True)
    is_public = models.BooleanField(default=True, help_text="Usable by every project.")
    projects: models.ManyToManyField[Project, models.Model] = models.ManyToManyField(
        Project, blank=True, help_text="Who may use it when it is not public."
    )
    registered_for = models.ForeignKey(
        Project,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="registered",
        help_text="Its folder must lie in this project's model roots, looked at again before each load; empty: anywhere.",
    )
    description = models.TextField(blank=True)
    created_at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        engine = Pool.objects.filter(pk=self.pool_id).values_list("environment__engine", flat=True).first()
        rules.weights("path", engine or "", self.kind, self.path)
