"""A pilot's `register` and `sync` → the fleet's tables; → what is wanted of it. Each is one transaction.

Writes to PostgreSQL only what has changed: what a pilot says every two seconds belongs in Redis.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from gpuworker import wire
from portal.fleet import transitions as fleet
from portal.fleet.states import REPLICA_ENDED, PilotState, ReplicaState
from portal.ledger import transitions as ledger
from portal.workerapi import findings, wishes
from portal.workerapi.wishes import PilotRow, ReplicaRow

LOST_ROW_S = 30.0
_LOAD_WEIGHT = 0.3  # of the newest load time in the smoothed one


class Ended(Exception):
    """The portal holds this pilot for ended."""


class Unknown(Exception):
    """A pilot without a row, whose key is ours: the database was put back to an earlier time.

    It may yet be adopted, so its agent is told to wait, not to end.
    """


class Unregistered(Exception):
    """The row of this pilot has no agent yet: it was adopted, and the agent registered in another life."""


class NotYours(Exception):
    """An error where another job is this pilot."""


@dataclass(frozen=True, slots=True)
class Heard:
    """The answer, and what the caller has to tell others: routes to write, whether to wake the control loop."""

    answer: wire.SyncAnswer
    pilot: PilotRow
    replicas: dict[str, ReplicaRow]
    moved: list[fleet.Moved]
    news: bool
    requeued: list[UUID]


def known(cur: Cursor, said: wire.Register) -> bool:
    """Return whether this job is registered as this pilot already. Raises Ended, NotYours, Unknown.

    A look ahead, before the ingress is asked; what counts is the compare-and-set of `register`."""
    row = _row(cur, UUID(said.pilot))
    if row.agent_job_id not in (None, said.job_id):
        raise NotYours
    return row.agent_job_id is not None


def heard(cur: Cursor, pilot: str) -> None:
    """Note that a pilot's agent speaks, though it is not registered."""
    ledger.heartbeat(cur, pilot, "pilot", datetime.now(UTC))


def _row(cur: Cursor, pilot: UUID) -> PilotRow:
    """Return a pilot's row. Raise Ended, Unknown."""
    row = wishes.pilot_row(cur, pilot)
    if row is None:
        raise Unknown
    if row.state == PilotState.ENDED:
        raise Ended
    return row


def register(cur: Cursor, said: wire.Register, interval_s: float) -> wire.SyncAnswer:
    """Register a pilot. Raise Ended, NotYours, Unknown."""
    pilot = UUID(said.pilot)
    now = datetime.now(UTC)
    took = fleet.register(
        cur,
        fleet.Registration(
            pilot=pilot,
            job_id=said.job_id,
            node=_clean(said.node)[:200],
            address=_clean(said.address)[:300],
            job_started_at=_at(said.started_at) or now,
            gpu_ids=tuple(map(_clean, said.gpus)),
            agent_version=_clean(said.agent_version)[:50],
        ),
        now,
    )
    row = wishes.pilot_row(cur, pilot)
    if row is None:
        raise Unknown
    if row.state == PilotState.ENDED:
        raise Ended
    if not took:
        raise NotYours
    if said.refusal:
        fleet.said_ending(cur, pilot, wire.REFUSED + " ".join(_clean(said.refusal).split()))
    ledger.heartbeat(cur, said.pilot, "pilot", now)
    # A fresh agent holds nothing: what an earlier one had pulled died with it.
    ledger.release(cur, pilot, now, "its agent was started again")
    return wishes.answer(cur, pilot, row, [], interval_s)


def sync(
    cur: Cursor, said: wire.Sync, *, stale: bool, beat: bool, interval_s: float, poison_after: int
) -> Heard:
    """Take a pilot's report. `stale`: a later one has been heard already, so it changes nothing.

    Raise Ended, NotYours, Unknown, Unregistered.
    """
    pilot = UUID(said.pilot)
    now = datetime.now(UTC)
    row = wishes.pilot_row(cur, pilot)
    if row is None:
        raise Unknown
    if row.state == PilotState.ENDED:
        raise Ended
    if row.agent_job_id is None:
        raise Unregistered
    if row.agent_job_id != said.job_id:
        raise NotYours
    moved: list[fleet.Moved] = []
    requeued: list[UUID] = []
    news = False
    if not stale:
        moved = _seen(cur, pilot, said, now)
        news = any(move.new in (ReplicaState.HOT, *REPLICA_ENDED) for move in moved)
        if said.ending and (ending := _clean(said.ending)) != row.said_ending:
            fleet.said_ending(cur, pilot, ending)
            news = True
        if sorted(said.staged) != sorted(row.staged):
            fleet.staged(cur, pilot, sorted(said.staged))
        if said.inspected and findings.keep(cur, pilot, said.inspected, now):
            news = True
        if said.log_tail is not None:
            _keep_log(cur, pilot, said.log_tail, now)
        requeued = _give_back_lost(cur, said, now, poison_after)
        if beat:
            ledger.heartbeat(cur, said.pilot, "pilot", now)
    answer = wishes.answer(cur, pilot, row, said.rows, interval_s)
    return Heard(answer, row, wishes.replica_rows(cur, pilot), moved, news, requeued)


def _seen(cur: Cursor, pilot: UUID, said: wire.Sync, now: datetime) -> list[fleet.Moved]:
    known = wishes.replica_rows(cur, pilot)
    changed = [seen for seen in said.replicas if _is_news(known.get(seen.id), seen)]
    moved = fleet.seen(
        cur,
        pilot,
        [
            fleet.Seen(
                id=UUID(seen.id),
                state=seen.state,
                phase=_clean(seen.phase),
                start=seen.start,
                started_at=_at(seen.started_at),
                hot_at=_at(seen.hot_at) or (now if seen.state in ("hot", "asleep") else None),
                error=_clean(seen.error)[-4000:],
                engine_version=_clean(seen.engine_version),
                asleep_mem_mb=seen.asleep_mem_mb or None,
            )
            for seen in changed
        ],
        now,
    )
    newly_hot = {str(move.replica): move.pool for move in moved if move.new == ReplicaState.HOT}
    for seen in changed:
        if seen.id not in newly_hot or seen.started_at is None or seen.hot_at is None:
            continue
        if not seen.wakes:
            _remember_load(cur, pilot, newly_hot[seen.id], max(0.0, seen.hot_at - seen.started_at))
        if seen.wake_s is not None:
            _remember_wake(cur, newly_hot[seen.id], max(0.0, seen.wake_s))
    return moved


def _is_news(known: ReplicaRow | None, seen: wire.ObservedReplica) -> bool:
    if known is None:
        return False  # ended here already, or another pilot's
    if known.state != seen.state:
        return True
    says = _clean(seen.phase)[:200]
    return seen.state == "starting" and (known.phase != says or seen.start not in ("", known.start))


def _remember_load(cur: Cursor, pilot: UUID, pool: str, load_s: float) -> None:
    """Remember how long a load took, smoothed, of the pool and of the pool on this type of GPU."""
    cur.execute(
        """INSERT INTO fleet_poolstate (pool_id, failures, reason, load_s) VALUES (%s, 0, '', %s)
           ON CONFLICT (pool_id) DO UPDATE SET
             load_s = coalesce(fleet_poolstate.load_s * (1 - %s) + excluded.load_s * %s, excluded.load_s)""",
        (pool, load_s, _LOAD_WEIGHT, _LOAD_WEIGHT),
    )
    cur.execute(
        """INSERT INTO fleet_fit (pool_id, gpu_type, fits, load_s, note, updated_at)
           SELECT %s, gpu_type, true, %s, '', now() FROM fleet_pilot WHERE id = %s
           ON CONFLICT (pool_id, gpu_type) DO UPDATE SET fits = true, updated_at = excluded.updated_at,
             load_s = coalesce(fleet_fit.load_s * (1 - %s) + excluded.load_s * %s, excluded.load_s)""",
        (pool, load_s, str(pilot), _LOAD_WEIGHT, _LOAD_WEIGHT),
    )


def _remember_wake(cur: Cursor, pool: str, wake_s: float) -> None:
    """Remember how long waking took, smoothed; the one on trial counts.

    One that failed is none: its replica got a new engine.
    """
    cur.execute(
        """INSERT INTO fleet_poolstate (pool_id, failures, reason, wake_s) VALUES (%s, 0, '', %s)
           ON CONFLICT (pool_id) DO UPDATE SET
             wake_s = coalesce(fleet_poolstate.wake_s * (1 - %s) + excluded.wake_s * %s, excluded.wake_s)""",
        (pool, wake_s, _LOAD_WEIGHT, _LOAD_WEIGHT),
    )


def _keep_log(cur: Cursor, pilot: UUID, text: str, now: datetime) -> None:
    cur.execute(
        """INSERT INTO fleet_pilotlog (pilot_id, text, at) VALUES (%s, %s, %s)
           ON CONFLICT (pilot_id) DO UPDATE SET text = excluded.text, at = excluded.at""",
        (str(pilot), _clean(text), now),
    )


def _give_back_lost(cur: Cursor, said: wire.Sync, now: datetime, poison_after: int) -> list[UUID]:
    """Give back rows granted to this pilot well before it spoke, which it does not have.

    Their lease answer never arrived, or the agent was started anew. A node whose clock runs ahead must not
    lose young ones.
    """
    cur.execute(
        """SELECT id, attempt FROM ledger_request
           WHERE holder = %s AND state = 'running' AND granted_at < %s""",
        (said.pilot, datetime.fromtimestamp(min(said.at, time.time()) - LOST_ROW_S, UTC)),
    )
    has = {(row.request, row.attempt) for row in said.rows}
    lost = [
        ledger.Interrupted(UUID(str(id_)), attempt, said.pilot, "its pilot does not have it")
        for id_, attempt in cur.fetchall()
        if (str(id_), attempt) not in has
    ]
    requeued, _ = ledger.interrupt(cur, lost, now, poison_after)
    return requeued


def _at(unix_s: float | None) -> datetime | None:
    return None if unix_s is None else datetime.fromtimestamp(unix_s, UTC)


def _clean(text: str) -> str:
    """Return a text without what PostgreSQL cannot hold, a NUL or half a surrogate pair; engines' output
    can."""
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()
