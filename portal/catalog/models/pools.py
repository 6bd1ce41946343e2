"""What is served: models, and the pools that share replicas and a queue."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.db import models, transaction
from django.db.models import F, Q

from portal.accounts.models import Project
from portal.catalog import rules
from portal.catalog.models.environments import Environment
from portal.catalog.models.names import model_name
from portal.catalog.models.profiles import Profile


class Pool(models.Model):
    """A pool shares replicas and a queue: a base model with its adapters, or a group of dnn models."""

    name = models.CharField(max_length=128, primary_key=True, validators=[model_name])
    base = models.ForeignKey(
        "catalog.Model",
        on_delete=models.SET_NULL,
        null=True,
        editable=False,
        related_name="+",
        help_text="The language model that its replicas load: the one of its models that is enabled.",
    )
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

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; what its base is follows from its models, whatever this copy of the row says."""
        with transaction.atomic():
            super().save(*args, **kwargs)
            settle_bases([self.name])
            self.base_id = Pool.objects.values_list("base_id", flat=True).get(pk=self.name)

    def clean(self) -> None:
        """Raise ValidationError for what the database's constraints cannot say."""
        rules.arguments("args", self.args)
        rules.at_least_one("nodes", self.nodes)
        engine = Environment.objects.filter(pk=self.environment_id).values_list("engine", flat=True).first()
        rules.parallel(engine or "", self.nodes, self.gpus, self.args)


class Model(models.Model):
    """A model is something servable, addressed by its name."""

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

    class Meta:
        constraints = [
            # What a pool's base refers to (migration pool_base).
            models.UniqueConstraint(fields=["id", "pool"], name="model_belongs_to_pool"),
            models.UniqueConstraint(
                fields=["pool"],
                condition=Q(kind="llm", enabled=True),
                name="pool_serves_one_language_model",
                violation_error_message="A pool serves one language model.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, and make it its pool's base where it is the language model that the pool serves."""
        with transaction.atomic():
            left = (
                Model.objects.filter(pk=self.pk).exclude(pool=self.pool_id).values_list("pool_id", flat=True)
            )
            pools = [*left, self.pool_id]
            super().save(*args, **kwargs)
            settle_bases(pools)
        if "pool" in self._state.fields_cache:
            self.pool.base_id = Pool.objects.values_list("base_id", flat=True).get(pk=self.pool_id)

    def clean(self) -> None:
        """Raise ValidationError for what the database's constraints cannot say, or not in words."""
        before = Model.objects.filter(pk=self.pk).values_list("kind", flat=True).first()
        rules.built("kind", self.kind, before)
        engine = Pool.objects.filter(pk=self.pool_id).values_list("environment__engine", flat=True).first()
        rules.weights("path", engine or "", self.kind, self.path)
        if self.enabled and self.kind == Model.Kind.LLM:
            others = Model.objects.filter(pool=self.pool_id, kind=Model.Kind.LLM, enabled=True).exclude(
                pk=self.pk
            )
            rules.alone("pool", self.pool_id or "", others.values_list("name", flat=True).first())


def settle_bases(pools: Iterable[str]) -> None:
    """Make the enabled language model of each of these pools its base. Where none is enabled, the base that it has
    stays, or else its first language model becomes it."""
    for pool in Pool.objects.select_for_update().filter(pk__in=set(pools)).order_by("pk"):
        rows = Model.objects.filter(pool=pool, kind=Model.Kind.LLM).order_by("id")
        enabled = dict(rows.values_list("pk", "enabled"))
        kept = pool.base_id if pool.base_id in enabled else next(iter(enabled), None)
        base = next((pk for pk, on in enabled.items() if on), kept)
        if base != pool.base_id:
            Pool.objects.filter(pk=pool.pk).update(base=base)
