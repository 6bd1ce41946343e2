"""Engine installations on a cluster, and how an engine is started in one."""

from __future__ import annotations

from django.db import models

from portal.catalog import rules


class Engine(models.TextChoices):
    VLLM = "vllm", "vLLM"
    TORCH = "torch", "torch"
    ECHO = "echo", "echo (tests and benchmarks)"


class ImageGpu(models.TextChoices):
    NVIDIA = "nv", "NVIDIA (--nv)"
    AMD = "rocm", "AMD (--rocm)"


class Environment(models.Model):
    """A versioned engine installation on the cluster. The agent's own environment is separate and small."""

    name = models.SlugField(unique=True)
    engine = models.CharField(max_length=10, choices=Engine)
    python = models.CharField(
        max_length=500, blank=True, help_text="Interpreter as seen on compute nodes; empty: the agent's own."
    )
    engine_version = models.CharField(
        max_length=50,
        blank=True,
        help_text="A note for people. What serves a request is what its engine says of itself.",
    )
    gpu_types = models.JSONField(default=list, blank=True, help_text="GPU types it runs on; empty: any.")
    prologue = models.TextField(
        blank=True, help_text="Shell lines (bash) run before its engines start, e.g. module load cuda/12."
    )
    image = models.CharField(
        max_length=500,
        blank=True,
        help_text="Apptainer image, as seen on compute nodes, in which its engines run; the interpreter is inside.",
    )
    image_gpu = models.CharField(
        max_length=10,
        blank=True,
        choices=ImageGpu,
        help_text="What Apptainer takes into the image for GPUs.",
    )
    image_binds = models.JSONField(
        default=list,
        blank=True,
        help_text='Further folders to be seen inside the image, e.g. ["/apps", "/data/models:/models:ro"]; '
        "Berth binds what it needs itself.",
    )

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        before = Environment.objects.filter(pk=self.pk).values_list("engine", flat=True).first()
        rules.built("engine", self.engine, before)
        rules.interpreter("python", self.engine, self.python)
        rules.words("gpu_types", self.gpu_types)
        rules.prologue("prologue", self.prologue)
        rules.image(self)
