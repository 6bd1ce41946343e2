"""The times of a request, its replica and its pilot → its timeline and where the seconds went. Pure.

Separate because the API, the pages and the benchmarks must tell the same story of one request.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Facts:
    """The stored times; None = has not happened, or is not known."""

    accepted_at: datetime
    granted_at: datetime | None = None
    first_token_at: datetime | None = None
    ended_at: datetime | None = None
    # As its row says since it was handed out; else they follow from the times below.
    slurm_s: float | None = None
    load_s: float | None = None
    # Of the pilot and the replica that ran it or that run it now.
    job_submitted_at: datetime | None = None
    job_started_at: datetime | None = None
    registered_at: datetime | None = None
    engine_started_at: datetime | None = None
    engine_ready_at: datetime | None = None
    job_id: int | None = None
    node: str = ""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The times of a request. `times`: by step, in the order in which they usually happen. Seconds add up: queue +
    slurm + load is the time from acceptance to the grant, engine is from there to the end."""

    times: dict[str, datetime | None]
    job_id: int | None
    node: str
    queue_s: float | None
    slurm_s: float | None
    load_s: float | None
    engine_s: float | None


def timeline(facts: Facts) -> Timeline:
    """Return the timeline of a request. Slurm's and the load's seconds count only where they lie between acceptance
    and grant: a request that meets a running replica waited for neither. The same rule, in SQL, is in
    portal.ledger.transitions.served."""
    times = {
        "accepted": facts.accepted_at,
        "job_submitted": facts.job_submitted_at,
        "job_running": facts.job_started_at,
        "registered": facts.registered_at,
        "engine_started": facts.engine_started_at,
        "engine_ready": facts.engine_ready_at,
        "granted": facts.granted_at,
        "first_token": facts.first_token_at,
        "done": facts.ended_at,
    }
    queue_s = slurm_s = load_s = engine_s = None
    if facts.granted_at is not None:
        wait = (facts.accepted_at, facts.granted_at)
        waited_s = _overlap_s(wait, *wait)
        slurm_s = _or(facts.slurm_s, _overlap_s(wait, facts.job_submitted_at, facts.job_started_at))
        load_s = _or(facts.load_s, _overlap_s(wait, facts.engine_started_at, facts.engine_ready_at))
        queue_s = round(max(0.0, waited_s - slurm_s - load_s), 3)
        if facts.ended_at is not None:
            engine_s = _overlap_s((facts.granted_at, facts.ended_at), facts.granted_at, facts.ended_at)
    return Timeline(times, facts.job_id, facts.node, queue_s, slurm_s, load_s, engine_s)


def _or(stored_s: float | None, seconds: float) -> float:
    return seconds if stored_s is None else round(stored_s, 3)


def _overlap_s(window: tuple[datetime, datetime], start: datetime | None, end: datetime | None) -> float:
    """Return the seconds of [start, end] within `window`. Clocks of nodes and portal differ a little: never negative."""
    if start is None or end is None:
        return 0.0
    seconds = (min(end, window[1]) - max(start, window[0])).total_seconds()
    return round(max(0.0, seconds), 3)
