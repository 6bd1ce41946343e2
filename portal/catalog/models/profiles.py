"""How and where jobs are submitted."""

from __future__ import annotations

from typing import Any

from django.core.validators import MaxValueValidator
from django.db import models
from django.db.models import F, Q

from portal.accounts.models import Project
from portal.catalog import cluster, patterns, rules, ways
from portal.catalog.models.access import Access
from portal.catalog.models.names import directive


class Profile(models.Model):
    """A profile: how and where jobs are submitted. Every value that becomes a directive is allow-listed
    again there."""

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
        validators=[MaxValueValidator(patterns.MOST_NICE)],
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
    agent_python = models.CharField(
        max_length=300,
        blank=True,
        help_text="Interpreter for the agent on its nodes, e.g. of another architecture; empty: the access's, else "
        "BERTH_AGENT_PYTHON.",
    )

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
        for field, most in patterns.MOST.items():
            rules.at_most(field, getattr(self, field), most)
        rules.like(
            "constraint", patterns.FEATURES, self.constraint, "Write features such as a100 or a100&nvlink."
        )
        rules.like("reservation", patterns.WORDS, self.reservation, "Write a reservation's name.")
        rules.like(
            "licenses", patterns.LICENCES, self.licenses, "Write licences such as ansys:2,matlab@flex."
        )
        rules.like("wckey", patterns.WORD, self.wckey, "Letters, digits and . _ + - only.")
        rules.memory(self.mem_request, self.mem_mb, self.gpus)
        rules.extra("extra", self.extra)
        rules.door("door_address", self.door_address)
        rules.ports("door_ports", self.door_ports)
        rules.url("portal_url_from_nodes", self.portal_url_from_nodes)
        self.scratch = rules.folder("scratch", self.scratch)
        rules.like("agent_python", patterns.PROGRAM, self.agent_python, rules.PROGRAM_HINT)
        rules.prologue("prologue", self.prologue)
        ways.check_profile(self)
        cluster.check(self)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row, with the cluster to which its access leads."""
        if self.access is not None:
            self.cluster = self.access.cluster
        super().save(*args, **kwargs)
