"""Per way one listing of all our jobs, at most every slurm_min_interval_s, kept in the way's row.

Turns Slurm's three answers into: these jobs, no such job, or silence with its reason; each way's for its own jobs only.
Kept in the database, so that a restarted loop neither asks again at once nor forgets when Slurm was last heard.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from typing import Any

from portal.config import Config
from portal.fleet.models import WayState
from scheduler.observe.ways import Site
from scheduler.slurm.fan_out import Answered, ask
from scheduler.slurm.patience import is_busy
from scheduler.slurm.protocol import LONGEST_WORDS, JobInfo, Jobs, SlurmClient, clean
from scheduler.slurm.way import Way

logger = logging.getLogger(__name__)

_FIELDS = tuple(field.name for field in dataclasses.fields(JobInfo))
_TEXTS = ("name", "state", "reason", "partition", "nodes")

ClientFor = Callable[[Way], SlurmClient]


@dataclass(frozen=True, slots=True)
class OurJob:
    """A job that bears our instance's name, and the way by which it is reached."""

    info: JobInfo
    pilot: str
    way: Way


@dataclass(frozen=True, slots=True)
class Listing:
    """The answer of one way, or what is kept of its last one."""

    jobs: dict[str, tuple[OurJob, ...]]  # by pilot id, lowest job id first
    answered_at: float | None  # when Slurm was asked for the answer that this is; None = never heard
    taken_now: bool  # its answer came in this tick


NEVER = Listing({}, None, False)

Listings = Mapping[Way, Listing]


def listen(site: Site, config: Config, client_for: ClientFor, now: float) -> dict[Way, Listing]:
    """Return the listings to act on now: new ones, or those kept while they are young or the way is silent. The ways are
    asked side by side; what one has not answered when the others have waited long enough, a later tick hears."""
    due = [way for way, row in site.ways.items() if _is_due(row, config, now) and not is_busy(way)]
    questions = {way: partial(_jobs, client_for, way) for way in due}
    answers = ask(questions, alone=len(site.ways) == 1, silent=site.error, now=now)
    return {way: _heard(site, way, answers.get(way), config, now) for way in site.ways}


def _jobs(client_for: ClientFor, way: Way) -> Jobs:
    """Ask for the jobs. Making a client is part of the question: one that cannot be made is this way's trouble, too."""
    return client_for(way).jobs()


def of_cluster(listings: Listings, cluster: str) -> dict[Way, Listing]:
    """Return the listings of one cluster's ways."""
    return {way: listing for way, listing in listings.items() if way.cluster == cluster}


def stored_listing(way: Way, row: WayState) -> Listing:
    """Return the last good listing that is stored of a way. Never one that is taken now."""
    jobs = {pilot: tuple(OurJob(JobInfo(**job), pilot, way) for job in js) for pilot, js in row.jobs.items()}
    return Listing(jobs, row.answered_at.timestamp() if row.answered_at else None, False)


def _is_due(row: WayState, config: Config, now: float) -> bool:
    busy_until = _believed(row.busy_until, config, now)
    if busy_until is not None and now < busy_until:
        return False
    tried_at = _believed(row.tried_at, config, now)
    return tried_at is None or now - tried_at >= config.slurm_min_interval_s


def _believed(at: datetime | None, config: Config, now: float) -> float | None:
    """Return UNIX seconds; None for a time further ahead than the loop ever writes one: the clock was set back since,
    and what it says would hold the way until the clock is there again."""
    longest_s = max(config.slurm_timeout_s, config.slurm_min_interval_s)
    return None if at is None or at.timestamp() > now + longest_s else at.timestamp()


def _is_outdated(row: WayState, asked_at: float, config: Config, now: float) -> bool:
    """Return whether something was asked by this way since: another process may have listed and submitted meanwhile,
    and this answer, good or bad, knows nothing of that."""
    tried_at = _believed(row.tried_at, config, now)
    return tried_at is not None and asked_at <= tried_at


def _heard(site: Site, way: Way, answer: Answered[Jobs] | None, config: Config, now: float) -> Listing:
    """Return the way's listing after this tick's question, if there was one and it has ended. Writes the way's row."""
    row = site.ways[way]
    if answer is None or _is_outdated(row, answer.asked_at, config, now):
        return stored_listing(way, row)
    row.tried_at = datetime.fromtimestamp(answer.asked_at, UTC)
    if answer.value is None:
        row.save(update_fields=["tried_at"])
        site.silence(way, answer.error)
        return stored_listing(way, row)
    jobs = _ours(answer.value, config.instance, way)
    site.answered(way, row.tried_at)
    row.jobs = {pilot: [_packed(job.info) for job in js] for pilot, js in jobs.items()}
    row.save(update_fields=["tried_at", "answered_at", "error", "jobs"])
    return Listing(jobs, answer.asked_at, True)


def _ours(jobs: Jobs, instance: str, way: Way) -> dict[str, tuple[OurJob, ...]]:
    mark = f"berth-{instance}-"
    named: Iterable[tuple[str, tuple[JobInfo, ...]]] = (
        (clean(name.removeprefix(mark)), infos) for name, infos in jobs.items() if name.startswith(mark)
    )
    return {
        pilot: tuple(OurJob(_clean(info), pilot, way) for info in sorted(infos, key=lambda info: info.job_id))
        for pilot, infos in named
    }


def _clean(info: JobInfo) -> JobInfo:
    texts: dict[str, str] = {name: getattr(info, name) for name in _TEXTS}
    wrong: dict[str, Any] = {name: clean(text) for name, text in texts.items() if not _is_plain(text)}
    return dataclasses.replace(info, **wrong) if wrong else info


def _is_plain(text: str) -> bool:
    return text.isascii() and "\0" not in text and len(text) <= LONGEST_WORDS


def _packed(info: JobInfo) -> dict[str, Any]:
    # Not asdict, which copies each value deeply: this is done for every job of the fleet, in every listing.
    return {name: getattr(info, name) for name in _FIELDS}
