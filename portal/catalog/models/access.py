"""Ways to the Slurm of a cluster."""

from __future__ import annotations

from typing import Any

from django.db import models

from portal.catalog import ways
from portal.catalog.models.names import directive


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
        default="",
        blank=True,
        validators=[directive],
        help_text="What the cluster is called here; empty: as this access. The same name for two accesses says that both "
        "lead to the same Slurm.",
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

    spool = models.CharField(
        max_length=300,
        blank=True,
        help_text="Folder for jobs' logs and secrets, as nodes and Slurm's commands there see it; empty: BERTH_SPOOL.",
    )
    agent_python = models.CharField(
        max_length=300,
        blank=True,
        help_text="Interpreter for the agent on this cluster's nodes; empty: BERTH_AGENT_PYTHON.",
    )
    agent_home = models.CharField(
        max_length=300,
        blank=True,
        help_text="Folder that holds the gpuworker package on this cluster's nodes; empty: BERTH_AGENT_HOME.",
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
        self._name_cluster()
        ways.check(self)

    def save(self, *args: Any, **kwargs: Any) -> None:
        """Save the row; a cluster that nobody named is one of its own."""
        self._name_cluster()
        super().save(*args, **kwargs)

    def _name_cluster(self) -> None:
        self.cluster = self.cluster or self.name
