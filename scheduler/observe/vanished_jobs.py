"""Jobs that Slurm lists no more → what accounting says of them, where there is accounting."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import replace
from uuid import UUID

from portal.fleet.models import Pilot
from scheduler.observe.listing import ClientFor
from scheduler.observe.ways import Site
from scheduler.slurm.protocol import NoAnswer, NotOffered, UsageInfo, clean
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)


def accounted(pilots: Iterable[Pilot], site: Site, client_for: ClientFor) -> dict[UUID, UsageInfo]:
    """Return what accounting says of these pilots' jobs, by pilot; those of which it says nothing are missing."""
    by_way: dict[Way, dict[int, UUID]] = defaultdict(dict)
    for pilot in pilots:
        if pilot.job_id is not None:
            by_way[site.way_of(pilot.profile)][pilot.job_id] = pilot.pk
    found = {}
    for way, jobs in by_way.items():
        try:
            answer = client_for(way).usage(sorted(jobs))
        except (NoAnswer, NotOffered) as error:
            logger.info("jobs %s vanished, and accounting does not say why: %s", sorted(jobs), error)
            continue
        for job_id, usage in answer.items():
            if job_id in jobs:
                found[jobs[job_id]] = replace(usage, state=clean(usage.state, 100))
    return found
