"""What can be served, where and with what: environments, profiles, pools and models.

Configuration only: people write it, the control loop reads it. What the loop knows and does is in
`portal.fleet`.
"""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator, RegexValidator
from django.db import models
from django.db.models import F, Q

from portal.accounts.models import Project
from portal.catalog import allowed, cluster, rules, ways

# Names reach file names, job names and engine arguments: a small alphabet, checked here and again there.
model_name = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._/-]{0,127}\Z", "Letters, digits and . _ / - only.")
directive = RegexValidator(r"^[A-Za-z0-9][A-Za-z0-9._+-]{0,63}\Z", "Letters, digits and . _ + - only.")


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
    engine_version = models.CharField(max_length=50, blank=True)
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
        rules.interpreter("python", self.engine, self.python)
        rules.words("gpu_types", self.gpu_types)
        rules.prologue("prologue", self.prologue)
        rules.image(self)


class Access(models.Model):
    """One way to the Slurm of one cluster: by which client, at which address, as whom. Holds where a token is kept,
    never a token. A profile that names none is submitted with Slurm's commands on the portal's own host."""

    class Kind(models.TextChoices):
        CLI = "cli", "Slurm's commands"
        REST = "rest", "slurmrestd"
        NATIVE = "native", "pyslurm, in a helper process"

    name = models.SlugField(unique=True)
    kind = models.CharField(max_length=10, choices=Kind, default=Kind.CLI)
    cluster = models.CharField(
        max_length=64,
        default="main",
        validators=[directive],
        help_text="What the cluster is called here. Several ways may lead to one.",
    )
    submit_prefix = models.JSONField(
        default=list,
        blank=True,
        help_text='Put before Slurm\'s commands or the helper, e.g. ["ssh", "login01"].',
    )
    address = models.CharField(
        max_length=200,
        blank=True,
        help_text="Where slurmrestd listens, e.g. http://slurm:6820 or unix:/run/slurmrestd.",
    )
    conf = models.CharField(
        max_length=300,
        blank=True,
        help_text="slurm.conf for the commands or the helper; empty: SLURM_CONF, or Slurm's own.",
    )
    user = models.CharField(
        max_length=64,
        blank=True,
        validators=[directive],
        help_text="Whose jobs these are, for slurmrestd and pyslurm; empty: the token's, or the helper's own.",
    )
    token_file = models.CharField(
        max_length=300, blank=True, help_text="File on the portal's host that holds slurmrestd's token."
    )
    token_command = models.JSONField(
        default=list, blank=True, help_text='Prints a token, e.g. ["scontrol", "token", "lifespan=3600"].'
    )
    python = models.CharField(
        max_length=300, blank=True, help_text="Interpreter that has pyslurm, for the helper process."
    )

    class Meta:
        verbose_name_plural = "accesses"
        constraints = [
            # What the profiles' own copy of the cluster's name refers to (migration profile_cluster_is_its_access).
            models.UniqueConstraint(fields=["id", "cluster"], name="access_leads_to_cluster"),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        ways.check(self)


class Profile(models.Model):
    """How and where jobs are submitted. Every value that becomes a directive is allow-listed again there."""

    class Charge(models.TextChoices):
        SERVICE = "service", "shared pilots under a service account"
        PROJECT = "project", "pilots serve one project, under its account"

    class Link(models.TextChoices):
        DIRECT = "direct", "the gateway dials the ingress"
        REVERSE = "reverse", "the agent opens links to the portal"

    class GpuRequest(models.TextChoices):
        GRES = "gres", "--gres=gpu:TYPE:N"
        PER_NODE = "gpus-per-node", "--gpus-per-node=TYPE:N"

    class MemRequest(models.TextChoices):
        NODE = "mem", "--mem, for the whole job"
        PER_GPU = "mem-per-gpu", "--mem-per-gpu, the same divided by its GPUs"
        NONE = "none", "not at all: the site gives memory with GPUs or CPUs"

    class Exclusive(models.TextChoices):
        NODE = "node", "no other job on its nodes (--exclusive)"
        USER = "user", "only jobs of the same account (--exclusive=user)"
        MCS = "mcs", "only jobs of the same MCS label (--exclusive=mcs)"

    name = models.SlugField(unique=True)
    enabled = models.BooleanField(default=True)
    access = models.ForeignKey(
        Access,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        related_name="profiles",
        help_text="How Slurm is reached; empty: by its commands on the portal's host.",
    )
    cluster = models.CharField(
        max_length=64,
        default="main",
        validators=[directive],
        help_text="With an access: that to which it leads.",
    )
    partition = models.CharField(max_length=64, validators=[directive])
    account = models.CharField(max_length=64, blank=True, validators=[directive])
    qos = models.CharField(max_length=64, blank=True, validators=[directive])
    gpu_type = models.CharField(max_length=64, blank=True, validators=[directive])
    gpus = models.PositiveSmallIntegerField(
        default=1, help_text="GPUs of one pilot, on each of its nodes; 0: its jobs run on CPUs only."
    )
    nodes = models.PositiveSmallIntegerField(
        default=1,
        help_text="Nodes that one job may have, at most: for models over several nodes, which take them whole.",
    )
    gpu_request = models.CharField(
        max_length=20, choices=GpuRequest, default=GpuRequest.GRES, help_text="How Slurm is asked for GPUs."
    )
    gpu_type_asked = models.BooleanField(
        default=True,
        help_text="Name the type to Slurm. Without: it is only what Berth's measurements are kept under, and a "
        "partition or constraint chooses the nodes.",
    )
    cpus = models.PositiveSmallIntegerField(default=4)
    mem_mb = models.PositiveIntegerField(
        default=16_000, help_text="Host memory of one pilot, on each of its nodes, MiB."
    )
    mem_request = models.CharField(
        max_length=20, choices=MemRequest, default=MemRequest.NODE, help_text="How Slurm is asked for memory."
    )
    constraint = models.CharField(
        max_length=256, blank=True, help_text="Features that its nodes must have, e.g. a100&nvlink."
    )
    reservation = models.CharField(max_length=200, blank=True, help_text="Of Slurm, in which its jobs run.")
    licenses = models.CharField(
        max_length=200, blank=True, help_text="Licences that each job takes, e.g. ansys:2,matlab@flex."
    )
    exclusive = models.CharField(
        max_length=10, blank=True, choices=Exclusive, help_text="Who else may use its nodes; empty: anybody."
    )
    nice = models.PositiveIntegerField(
        default=0,
        validators=[MaxValueValidator(allowed.MOST_NICE)],
        help_text="How much its jobs stand back behind others, Slurm's nice.",
    )
    wckey = models.CharField(max_length=64, blank=True, help_text="Key under which the site books its jobs.")
    extra = models.JSONField(
        default=dict,
        blank=True,
        help_text='Further directives by sbatch\'s names, e.g. {"switches": "1@60", "contiguous": true}; of those '
        "that Berth allows.",
    )
    walltime_min = models.PositiveIntegerField(default=240, help_text="Asked of Slurm, minutes.")
    walltime_least_min = models.PositiveIntegerField(
        default=30, help_text="--time-min: the shortest job that is still useful, minutes."
    )
    max_pilots = models.PositiveSmallIntegerField(
        default=8, help_text="Most jobs at once under this profile."
    )
    preemptible = models.BooleanField(default=False)
    cost = models.FloatField(default=1.0, help_text="Relative cost of one GPU hour; cheaper is chosen first.")
    charge = models.CharField(max_length=10, choices=Charge, default=Charge.SERVICE)
    project = models.ForeignKey(
        Project,
        on_delete=models.PROTECT,
        null=True,
        blank=True,
        help_text="Whose pilots these are when the project is charged.",
    )
    link = models.CharField(
        max_length=10,
        choices=Link,
        default=Link.DIRECT,
        help_text="Who opens the connections for requests. Reverse: for nodes that the portal cannot dial; they need to "
        "reach the portal only, and a proxy before it has to pass WebSockets on (Upgrade).",
    )
    prologue = models.TextField(blank=True, help_text="Shell lines run in the job before the agent starts.")
    door_address = models.CharField(
        max_length=200,
        blank=True,
        help_text="Where pilots listen: an interface (ib0) or a network (10.1.0.0/16, fd00::/8) of the nodes; "
        "empty: the address from which a node reaches the portal.",
    )
    door_ports = models.CharField(
        max_length=20,
        blank=True,
        help_text="Ports pilots listen on, e.g. 20000-20100, at least one for each job on a node; empty: any.",
    )
    portal_url_from_nodes = models.CharField(
        max_length=200, blank=True, help_text="Where the nodes reach the portal; empty: BERTH_PORTAL_URL."
    )
    scratch = models.CharField(max_length=300, blank=True, help_text="Node-local folder; empty: /tmp.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=Q(gpus__gt=0) | ~Q(mem_request="mem-per-gpu"),
                name="profile_mem_per_gpu_has_gpus",
                violation_error_message="Memory per GPU needs GPUs: ask for it with --mem.",
            ),
            models.CheckConstraint(
                condition=Q(nodes__gt=0),
                name="profile_has_nodes",
                violation_error_message="A job has at least one node.",
            ),
            models.CheckConstraint(
                condition=Q(cost__gt=0),
                name="profile_costs_something",
                violation_error_message="The cost is more than 0.",
            ),
            models.CheckConstraint(
                condition=~Q(charge="project") | Q(project__isnull=False),
                name="profile_charged_has_project",
                violation_error_message="Name the project that is charged.",
            ),
            models.CheckConstraint(
                condition=Q(walltime_least_min__lte=F("walltime_min")),
                name="profile_walltime_least_below_walltime",
                violation_error_message="walltime_least_min is at most walltime_min.",
            ),
        ]

    def __str__(self) -> str:
        return self.name

    def clean(self) -> None:
        rules.at_least_one("cpus", self.cpus)
        rules.at_least_one("nodes", self.nodes)
        rules.at_least_one("walltime_least_min", self.walltime_least_min)
        rules.like(
            "constraint", allowed.FEATURES, self.constraint, "Write features such as a100 or a100&nvlink."
        )
        rules.like("reservation", allowed.WORDS, self.reservation, "Write a reservation's name.")
        rules.like("licenses", allowed.LICENCES, self.licenses, "Write licences such as ansys:2,matlab@flex.")
        rules.like("wckey", allowed.WORD, self.wckey, "Letters, digits and . _ + - only.")
        rules.memory(self.mem_request, self.mem_mb, self.gpus)
        rules.extra("extra", self.extra)
        rules.door("door_address", self.door_address)
        rules.ports("door_ports", self.door_ports)
        rules.url("portal_url_from_nodes", self.portal_url_from_nodes)
        rules.absolute("scratch", self.scratch)
        ways.check_profile(self)
        cluster.check(self)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, with the cluster to which its access leads."""
        if self.access is not None:
            self.cluster = self.access.cluster
        super().save(*args, **kwargs)


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
        rules.over_nodes(engine or "", self.nodes, self.gpus, self.args)


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
