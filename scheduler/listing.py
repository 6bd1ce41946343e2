"""One listing of all our jobs, at most every slurm_min_interval_s, kept in the cluster's row.

Turns Slurm's three answers into: these jobs, no such job, or silence with its reason. Kept in the database,
so that a restarted loop neither asks again at once nor forgets when Slurm was last heard.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from portal.catalog.models import Profile
from portal.config import Config
from portal.fleet.models import Cluster, Pilot, PilotState
from scheduler.slurm.protocol import JobInfo, NoAnswer, SlurmClient
from scheduler.story import tell

logger = logging.getLogger(__name__)

_FIELDS = tuple(field.name for field in dataclasses.fields(JobInfo))

Prefix = tuple[str, ...]
ClientFor = Callable[[Prefix], SlurmClient]


@dataclass(frozen=True, slots=True)
class OurJob:
    """A job that bears our instance's name, and through which prefix it is reached."""

    info: JobInfo
    pilot: str
    prefix: Prefix


@dataclass(frozen=True, slots=True)
class Listing:
    jobs: dict[str, tuple[OurJob, ...]]  # by pilot id, lowest job id first
    answered_at: float | None  # when Slurm was asked for the answer that this is; None = never heard
    taken_now: bool  # asked and answered in this tick


def listen(row: Cluster, config: Config, client_for: ClientFor, now: float) -> Listing:
    """The listing to act on now: a new one, or the kept one while that is young. Writes the cluster's row."""
    prefixes = _prefixes(row.name)
    due = row.tried_at is None or now - row.tried_at.timestamp() >= config.slurm_min_interval_s
    if not due or not prefixes:
        return kept(row)
    found: dict[str, list[OurJob]] = {}
    try:
        for prefix in prefixes:
            for job in _ask(client_for(prefix), config.instance, prefix):
                found.setdefault(job.pilot, []).append(job)
    except NoAnswer as error:
        row.tried_at = datetime.fromtimestamp(now, UTC)
        row.save(update_fields=["tried_at"])
        silence(row, str(error), now)
        return kept(row)
    jobs = {pilot: tuple(sorted(js, key=lambda job: job.info.job_id)) for pilot, js in found.items()}
    if row.error:
        tell("slurm_answers", "Slurm answers again: what waited for it goes on.", now)
    row.tried_at = row.answered_at = datetime.fromtimestamp(now, UTC)
    row.error = ""
    row.jobs = {pilot: [_packed(job) for job in js] for pilot, js in jobs.items()}
    row.save(update_fields=["tried_at", "answered_at", "error", "jobs"])
    return Listing(jobs, now, True)


def kept(row: Cluster) -> Listing:
    jobs = {pilot: tuple(_unpacked(pilot, job) for job in js) for pilot, js in row.jobs.items()}
    answered_at = row.answered_at.timestamp() if row.answered_at else None
    return Listing(jobs, answered_at, False)


def silence(row: Cluster, error: str, now: float) -> None:
    """A verb had no answer: nothing more is started until a listing has one. One row for the whole silence."""
    if row.error != error:
        logger.warning("Slurm does not answer: %s", error)
    if not row.error:
        said = f"Slurm does not answer: nothing is launched or cancelled until it does, what runs goes on. {error}"
        tell("slurm_silent", said, now)
    row.error = error
    row.save(update_fields=["error"])


def _ask(client: SlurmClient, instance: str, prefix: Prefix) -> list[OurJob]:
    mark = f"berth-{instance}-"
    return [
        OurJob(info, name.removeprefix(mark), prefix)
        for name, infos in client.jobs().items()
        if name.startswith(mark)
        for info in infos
    ]


def _prefixes(cluster: str) -> list[Prefix]:
    """Each way to reach Slurm that an enabled profile or a live pilot uses. `--me` may differ by prefix."""
    enabled = Profile.objects.filter(cluster=cluster, enabled=True).values_list("submit_prefix", flat=True)
    live = Pilot.objects.filter(cluster=cluster).exclude(state=PilotState.ENDED)
    used = live.values_list("profile__submit_prefix", flat=True)
    return sorted({tuple(map(str, prefix)) for prefix in [*enabled, *used]})


def _packed(job: OurJob) -> dict[str, Any]:
    info = job.info
    # Not asdict, which copies each value deeply: this is done for every job of the fleet, in every listing.
    return {name: getattr(info, name) for name in _FIELDS} | {"prefix": list(job.prefix)}


def _unpacked(pilot: str, kept_job: dict[str, Any]) -> OurJob:
    fields = dict(kept_job)
    prefix = tuple(fields.pop("prefix"))
    return OurJob(JobInfo(**fields), pilot, prefix)
