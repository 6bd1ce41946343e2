"""The fleet as a terminal shows it: what stands, why a model or a request does not run yet, what was decided.

The words come from where pages and API have them; this only lays them out.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from uuid import UUID

from django.db import connection
from django.utils import timezone

from portal.catalog.models import Model, Pool
from portal.console.table import table
from portal.db.connections import plain
from portal.fleet.models import Cluster, Decision, Pilot, ProfileState
from portal.fleet.phase import Phase
from portal.fleet.phases import read_phases
from portal.fleet.states import ON_ITS_WAY, PilotState
from portal.fleet.times import ago, span, until
from portal.ledger.models import Request
from portal.services import targets
from portal.services.cluster_state import cluster_health, unknown_jobs
from portal.services.recent_pilots import recent_pilots
from portal.services.request_story import position
from portal.services.request_wait import why as waits

_WORDS = {"ready": "ready", "starting": "starting", "not_loaded": "not loaded", "unavailable": "unavailable"}
LAST_DECISIONS = 5


def status(width: int) -> Iterator[str]:
    now = timezone.now()
    clusters = list(Cluster.objects.order_by("name").prefetch_related("ways"))
    for cluster in clusters:
        said = cluster_health(cluster, now)
        which = f" --cluster {cluster.name}" if len(clusters) > 1 else ""
        yield f"Cluster {cluster.name}: {said.slurm} {said.loop}"
        if cluster.paused:
            paused = f"Cluster {cluster.name}" if which else "The whole fleet"
            yield f"{paused} is paused: `fleet resume{which}` resumes it."
        for job in unknown_jobs(cluster):
            yield (
                f"Unknown job {job.job_id} ({job.slurm}), seen {ago(job.since, now)}: "
                f"`fleet adopt {job.job_id}{which}` or `fleet reject {job.job_id}{which}`."
            )
    for held in ProfileState.objects.filter(latched_at__isnull=False).select_related("profile"):
        name = held.profile.name
        yield f"Profile {name} is held: {held.reason} `fleet relaunch --profile {name}` releases it."
    phases = _phases(now)
    pools = [_pool_row(pool, phases[pool.name], now) for pool in _pools()]
    yield ""
    yield (
        table(("MODEL", "STATE", "READY IN", "DETAILS"), pools, width) if pools else "No pool is set up yet."
    )
    pilots = [_pilot_row(pilot, now) for pilot in recent_pilots(now)]
    yield ""
    yield (
        table(("JOB", "STATE", "NODE", "TIME LEFT", "DETAILS"), pilots, width)
        if pilots
        else "There are no pilots."
    )


def why(word: str) -> Iterator[str]:
    """Yield the reasons why a request, named by its id, or a model does not run yet. Raise ValidationError for an
    unknown name."""
    now = timezone.now()
    row = _request(word)
    if row is not None:
        place = position(row)
        told = waits(row, place)
        yield f"Request {row.id} for {row.model}: {row.state}" + (
            f", queue position {place}." if place else "."
        )
        if told is None:
            yield f"It is not waiting. {row.error_text or ''}".strip()
        else:
            yield from _told(told)
        return
    pool = targets.pool(word)
    name = word if Model.objects.filter(name=word).exists() else pool.name
    phase = _phases(now)[pool.name].named(name)
    yield f"{name}: {_WORDS[phase.residency]}." + (f" Pinned {pin}." if (pin := _pinned(pool, now)) else "")
    yield from _told(phase)
    recent = list(Decision.objects.filter(pool=pool.name).order_by("-id")[:LAST_DECISIONS])
    for decision in reversed(recent):
        yield f"  {decision.at:%Y-%m-%d %H:%M:%S} UTC  {decision.kind}: {decision.reason}"


def decided(rows: list[Decision], width: int) -> str:
    """Return the decisions as a table, newest last, as a log reads."""
    if not rows:
        return "No decision matches."
    cells = [
        (
            f"{row.at:%Y-%m-%d %H:%M:%S}",
            row.kind,
            row.pool or (str(row.pilot)[:8] if row.pilot else "–"),
            _because(row),
        )
        for row in reversed(rows)
    ]
    return table(("TIME (UTC)", "ACTION", "TARGET", "REASON"), cells, width)


def _because(row: Decision) -> str:
    inputs = ", ".join(f"{name} {value}" for name, value in row.inputs.items() if value is not None)
    return f"{row.reason} ({inputs})" if inputs else row.reason


def _told(phase: Phase) -> Iterator[str]:
    if phase.says:
        yield phase.says
    for part in phase.parts:
        yield f"  {part.name:<6} {span(part.seconds) if part.seconds is not None else 'unknown':>10}  {part.text}"
    if phase.residency == "ready" and not phase.parts:
        yield "Loaded and ready."
    elif phase.parts:
        yield f"  {'total':<6} {span(phase.eta_s) if phase.eta_s is not None else 'unknown':>10}"


def _pool_row(pool: Pool, phase: Phase, now: datetime) -> tuple[str, str, str, str]:
    eta = "now" if phase.residency == "ready" else "unknown" if phase.eta_s is None else span(phase.eta_s)
    pin = _pinned(pool, now)
    says = " ".join(filter(None, (phase.says, f"Pinned {pin}." if pin else "")))
    return pool.name, _WORDS[phase.residency], eta, says or "Loaded and ready."


def _pilot_row(pilot: Pilot, now: datetime) -> tuple[str, str, str, str, str]:
    left = "–"
    if pilot.state != PilotState.ENDED and pilot.slurm_end_at is not None:
        left = span((pilot.slurm_end_at - now).total_seconds())
    live = [
        f"{replica.model} {replica.state}" for replica in pilot.replicas.all() if replica.ended_at is None
    ]
    what = pilot.end_reason or ", ".join(live) or pilot.said_ending or pilot.slurm_words
    if pilot.state in ON_ITS_WAY and pilot.slurm_words:
        what = f"{pilot.slurm_words}; for {', '.join(live) or 'no model'}"
    return str(pilot.job_id or str(pilot.id)[:8]), pilot.state, pilot.node or "–", left, what


def _pinned(pool: Pool, now: datetime) -> str:
    state = getattr(pool, "state", None)
    at = state.pinned_until if state is not None else None
    return until(at) if at is not None and at > now else ""


def _pools() -> list[Pool]:
    return list(Pool.objects.select_related("state").order_by("name"))


def _phases(now: datetime) -> dict[str, Phase]:
    with connection.cursor() as cur:
        return {name: phase.named(name) for name, phase in read_phases(plain(cur), now.timestamp()).items()}


def _request(word: str) -> Request | None:
    try:
        return Request.objects.filter(id=UUID(word)).first()
    except ValueError:
        return None
