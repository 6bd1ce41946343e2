"""Agents that could have been heard and were not: for how long, and the rows that say so.

Silence has many causes, and only one is the agent's: the portal that takes reports may be away, Redis may be
away or flushed, Slurm may not have started the job. So the clock of a silence runs only while all of those are
well, and starts anew when one was not (invariant 1). It is kept in Redis, as soft as what it is about.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import redis as redis_library

from portal.config import Config
from portal.fleet.models import Pilot
from portal.fleet.states import ON_ITS_WAY, PilotState
from portal.ledger.models import Holder
from portal.redis import keys
from scheduler.observe.reports import Heard
from scheduler.policy.consequences import NotePilotHeard, NotePilotSilent

logger = logging.getLogger(__name__)

_SINCE = keys.SILENT_SINCE.of()
_NOTED = keys.SILENT_NOTED.of()


@dataclass(frozen=True, slots=True)
class Silence:
    """The silent agents: for how many seconds, by pilot. Those that were heard lately are missing. `notes`: what no row
    tells of yet."""

    for_s: Mapping[str, float]
    notes: tuple[NotePilotSilent | NotePilotHeard, ...] = ()

    def of(self, pilot: str) -> float:
        """Return for how many seconds a pilot's agent has been silent."""
        return self.for_s.get(pilot, 0.0)

    def lost(self, alive_s: float) -> frozenset[str]:
        """Return the pilots that have been silent for alive_s or longer."""
        return frozenset(pilot for pilot, silent_s in self.for_s.items() if silent_s >= alive_s)


def look(
    redis: redis_library.Redis,
    pilots: Iterable[Pilot],
    running: Iterable[str],
    reports: Mapping[str, Heard] | None,
    config: Config,
    now: float,
) -> Silence:
    """Return how long agents have been silent. `running`: pilots whose job runs, by the last listing. `reports` None:
    Redis did not answer."""
    rows = list(pilots)
    if reports is None:
        return Silence({})
    last = _last_heard(rows, set(running), reports, now)
    due_s = 3 * config.sync_interval_s
    late = {pilot for pilot, at in last.items() if now - at > due_s} if _listening(config, now) else set()
    try:
        for_s = _clock(redis, late, now)
        noted = _noted(redis, rows)
    except redis_library.RedisError as error:
        logger.warning("Redis did not answer: %s", error)
        return Silence({})
    return Silence(for_s, tuple(notes_on(rows, for_s, noted, config.alive_s)))


def _last_heard(
    pilots: Iterable[Pilot], running: set[str], reports: Mapping[str, Heard], now: float
) -> dict[str, float]:
    """Return when each pilot was last heard by any witness: the report in Redis, the heartbeat in PostgreSQL, the
    registration. Of a job that runs and never registered: its start. Pilots of which nothing can be expected yet are
    missing."""
    seen = dict(Holder.objects.filter(kind=Holder.Kind.PILOT).values_list("pk", "seen_at"))
    found = {}
    for pilot in pilots:
        name = str(pilot.pk)
        if pilot.registered_at is not None:
            moments = [pilot.registered_at, *filter(None, [seen.get(name)])]
            heard = reports.get(name)
            found[name] = max(*(m.timestamp() for m in moments), heard.received_at if heard else 0.0)
        elif name in running and pilot.state in ON_ITS_WAY:
            start = pilot.slurm_start_at.timestamp() if pilot.slurm_start_at else now
            # It may have spoken without having been registered: the portal did not reach its ingress.
            found[name] = max(start, seen[name].timestamp()) if name in seen else start
    return found


def _listening(config: Config, now: float) -> bool:
    """Return whether a process that takes reports was alive a moment ago: gateways and the worker API are one
    process."""
    after = datetime.fromtimestamp(now, UTC) - timedelta(seconds=config.holder_stale_s)
    return Holder.objects.filter(kind=Holder.Kind.GATEWAY, seen_at__gt=after).exists()


def _clock(redis: redis_library.Redis, late: set[str], now: float) -> dict[str, float]:
    stored = redis.hgetall(_SINCE)
    assert isinstance(stored, dict)
    since = {_text(pilot): float(at) for pilot, at in stored.items()}
    if gone := since.keys() - late:
        redis.hdel(_SINCE, *gone)
    if new := late - since.keys():
        redis.hset(_SINCE, mapping={pilot: repr(now) for pilot in new})
    return {pilot: now - since.get(pilot, now) for pilot in late}


def _noted(redis: redis_library.Redis, pilots: Iterable[Pilot]) -> set[str]:
    """Return the live pilots of which a row says that they do not serve. Those that are gone are forgotten."""
    found = redis.smembers(_NOTED)
    assert isinstance(found, set)
    live = {str(pilot.pk) for pilot in pilots}
    known = {_text(pilot) for pilot in found}
    if gone := known - live:
        redis.srem(_NOTED, *gone)
    return known & live


def mark_noted(redis: redis_library.Redis, pilot: str, silent: bool) -> None:
    """Keep that a row tells of a pilot's silence, or of its end. Raises RedisError."""
    if silent:
        redis.sadd(_NOTED, pilot)
    else:
        redis.srem(_NOTED, pilot)


def notes_on(
    pilots: Iterable[Pilot], for_s: Mapping[str, float], noted: set[str], alive_s: float
) -> Iterator[NotePilotSilent | NotePilotHeard]:
    """Yield one note when a pilot that served is lost, one when it is back. Pure."""
    up = {str(pilot.pk): pilot for pilot in pilots if pilot.state in (PilotState.UP, PilotState.DRAINING)}
    lost = {pilot for pilot, silent_s in for_s.items() if silent_s >= alive_s and pilot in up}
    for name in sorted(lost - noted):
        reason = (
            f"Its agent on {up[name].node} has been silent for {for_s[name]:.0f} s while others were heard: what it "
            "hosts does not count as serving until it speaks again."
        )
        yield NotePilotSilent(pilot=name, reason=reason)
    for name in sorted((noted - lost) & up.keys()):
        yield NotePilotHeard(pilot=name, reason="Its agent speaks again: what it hosts counts as serving.")


def _text(name: bytes | str) -> str:
    return name.decode() if isinstance(name, bytes) else name
