"""A profile → the intent of a pilot: what its job is to have. The only place where one is built.

Separate from the job's script, because the intent is a row before anything is asked of Slurm (invariant 2).
"""

from __future__ import annotations

import uuid
from uuid import UUID

from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet import transitions as fleet
from scheduler.jobs.spec import job_name


def intent(
    config: Config,
    profile: Profile,
    *,
    pilot: UUID | None = None,
    nodes: int = 1,
    limit_s: float | None = None,
    replaces: UUID | None = None,
) -> fleet.NewPilot:
    """Return a pilot of the profile over so many nodes, with a new id where none is given. `limit_s`: a shorter walltime
    than the profile's, in seconds. `replaces`: the pilot that it takes over from."""
    pilot = pilot or uuid.uuid4()
    return fleet.NewPilot(
        id=pilot,
        cluster=profile.cluster,
        profile_id=profile.pk,
        job_name=job_name(config, str(pilot)),
        gpus=profile.gpus * nodes,
        nodes=nodes,
        mem_mb=profile.mem_mb,
        walltime_min=_walltime_min(profile, limit_s),
        gpu_type=profile.gpu_type,
        replaces=replaces,
    )


def _walltime_min(profile: Profile, limit_s: float | None) -> int:
    return profile.walltime_min if limit_s is None else max(1, min(profile.walltime_min, int(limit_s // 60)))
