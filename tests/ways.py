"""What the loop would have written of a way to Slurm, for tests of those who read it."""

from __future__ import annotations

from typing import Any

from portal.fleet.models import Cluster, WayState


def way_row(cluster: str = "main", name: str = "", **fields: Any) -> WayState:
    """Write the way's row, and the cluster's where there is none."""
    Cluster.objects.get_or_create(name=cluster)
    said = {"said": f"Slurm ({name or cluster})"}
    row, _ = WayState.objects.update_or_create(cluster_id=cluster, name=name, defaults=said | fields)
    return row
