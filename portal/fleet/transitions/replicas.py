"""Moves of replicas: wanted, drained and woken by the control loop; the rest is what their agents saw."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import NamedTuple
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.db.rows import first, named
from portal.fleet.states import REPLICA_ENDED, ReplicaState
from portal.fleet.transitions.traces import claim, event, unclaim
from portal.fleet.transitions.values import Moved, NewReplica, Seen

LIVE_REPLICA = "('wanted', 'starting', 'hot', 'draining', 'asleep')"


class _Home(NamedTuple):
    """The home of a replica: where it is."""

    pilot: UUID
    pool: str


def want(cur: Cursor, replica: NewReplica, now: datetime) -> None:
    """Write a wanted replica (→ wanted) and claim its GPUs. Raise IntegrityError if another live replica has one of
    them."""
    cur.execute(
        """INSERT INTO fleet_replica (id, pilot_id, pool_id, model, engine, state, gpu_indices, mem_mb, cap, wanted_at,
             end_reason, phase, engine_version)
           VALUES (%s, %s, %s, %s, %s, 'wanted', %s, %s, %s, %s, '', '', '')""",
        (str(replica.id), str(replica.pilot), replica.pool, replica.model, replica.engine,
         json.dumps(list(replica.gpu_indices)), replica.mem_mb, replica.cap, now),
    )  # fmt: skip
    claim(cur, replica.pilot, replica.id, replica.gpu_indices)
    event(cur, now, [Moved(replica.pilot, replica.id, "", ReplicaState.WANTED, replica.pool)], "")


def drain_replicas(
    cur: Cursor, replicas: Iterable[UUID], now: datetime, reason: str, sleep_level: int = 0
) -> list[Moved]:
    """Move replicas out of routing (wanted | starting | hot | asleep → draining); return those that moved. When nothing
    is in flight their agent stops them, or puts their engines to sleep."""
    moved = _replicas(
        cur,
        [str(r) for r in replicas],
        ReplicaState.DRAINING,
        now,
        reason,
        "('wanted', 'starting', 'hot', 'asleep')",
    )
    if moved:
        # Also 0: one that sleeps already is to stop now.
        cur.execute(
            "UPDATE fleet_replica SET sleep_level = %s WHERE id = ANY(%s::uuid[]) AND state = 'draining'",
            (sleep_level, [str(m.replica) for m in moved]),
        )
    return moved


def wake(cur: Cursor, replica: UUID, gpu_indices: Sequence[int], now: datetime, reason: str) -> bool:
    """Wake a replica (asleep → starting) and claim its GPUs again; return whether it slept. Raise IntegrityError if
    another live replica has one of them."""
    cur.execute(
        """UPDATE fleet_replica SET state = 'starting', gpu_indices = %s, sleep_level = 0, start = 'wake',
             phase = 'waking', started_at = %s
           WHERE id = %s AND state = 'asleep' RETURNING pilot_id AS pilot, pool_id AS pool""",
        (json.dumps(list(gpu_indices)), now, str(replica)),
    )
    home = first(cur, _Home)
    if home is None:
        return False
    claim(cur, home.pilot, replica, gpu_indices)
    moved = Moved(home.pilot, replica, ReplicaState.ASLEEP, ReplicaState.STARTING, home.pool)
    event(cur, now, [moved], reason)
    return True


def seen(cur: Cursor, pilot: UUID, replicas: Sequence[Seen], now: datetime) -> list[Moved]:
    """Take what a pilot's agent reported of its replicas; return the moves. States move forward only: a replica that
    the loop drains is not hot again because a report was late."""
    if not replicas:
        return []
    moved = execute_values(
        cur,
        """UPDATE fleet_replica r SET
             state = v.state, phase = v.phase, start = CASE WHEN v.start <> '' THEN v.start
               -- Agents of the release before say it in the phase only.
               WHEN v.state = 'starting' THEN CASE WHEN v.phase = 'waking' THEN 'wake' ELSE 'load' END
               ELSE r.start END,
             started_at = coalesce(v.started_at, r.started_at), hot_at = coalesce(v.hot_at, r.hot_at),
             engine_version = CASE WHEN v.version <> '' THEN v.version ELSE r.engine_version END,
             revision = CASE WHEN r.state <> 'wanted' THEN r.revision
               ELSE coalesce((SELECT m.revision FROM catalog_model m WHERE m.name = r.model), '') END,
             draining_at = CASE WHEN v.state = 'draining' THEN coalesce(r.draining_at, v.at) ELSE r.draining_at END,
             asleep_at = CASE WHEN v.state = 'asleep' THEN v.at ELSE r.asleep_at END,
             asleep_mem_mb = CASE WHEN v.state <> 'asleep' THEN r.asleep_mem_mb
               ELSE greatest(v.asleep_mb, (SELECT p.asleep_mem_mb FROM catalog_pool p WHERE p.name = r.pool_id)) END,
             ended_at = CASE WHEN v.state IN ('stopped', 'failed') THEN v.at END,
             end_reason = CASE WHEN v.state = 'failed' THEN coalesce(nullif(v.error, ''), 'engine failed')
                               WHEN v.state = 'stopped' THEN coalesce(nullif(v.error, ''), r.end_reason)
                               ELSE r.end_reason END
           FROM (VALUES %s) AS v (id, pilot, state, phase, start, started_at, hot_at, error, version, at, asleep_mb),
             fleet_replica was
           WHERE r.id = v.id AND was.id = v.id AND r.pilot_id = v.pilot
             AND ((r.state = 'wanted' AND v.state IN ('starting', 'hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state = 'starting'
                 AND (r.phase <> v.phase OR r.start <> coalesce(nullif(v.start, ''), r.start)))
               OR (r.state = 'hot' AND v.state IN ('starting', 'draining', 'asleep', 'stopped', 'failed'))
               OR (r.state = 'asleep' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'draining' AND v.state = 'asleep' AND r.sleep_level > 0)
               OR (r.state = 'draining' AND v.state IN ('stopped', 'failed')))
           RETURNING r.pilot_id AS pilot, r.id AS replica, was.state AS old, r.state AS new, r.pool_id AS pool""",
        [
            (str(s.id), str(pilot), s.state, s.phase[:200], s.start, s.started_at, s.hot_at, s.error,
             s.engine_version[:50], now, s.asleep_mem_mb)
            for s in replicas
        ],
        template="(%s::uuid, %s::uuid, %s, %s, %s, %s::timestamptz, %s::timestamptz, %s, %s, %s::timestamptz, %s::int)",
        page_size=len(replicas),
        fetch=True,
    )  # fmt: skip
    changes = [move for move in named(cur, Moved, moved) if move.old != move.new]
    unclaim(cur, [str(m.replica) for m in changes if m.new in (*REPLICA_ENDED, ReplicaState.ASLEEP)])
    errors = {s.id: s.error for s in replicas}
    for change in changes:
        event(cur, now, [change], errors.get(change.replica, "") if change.replica else "")
    return changes


def replicas_of(
    cur: Cursor, pilots: Sequence[UUID], new: str, now: datetime, reason: str, expected: str
) -> None:
    if pilots:
        cur.execute(
            "SELECT id FROM fleet_replica WHERE pilot_id = ANY(%s::uuid[])", ([str(p) for p in pilots],)
        )
        _replicas(cur, [str(id_) for (id_,) in cur.fetchall()], new, now, reason, expected)


def _replicas(
    cur: Cursor, replicas: Sequence[str], new: str, now: datetime, reason: str, expected: str
) -> list[Moved]:
    when = "draining_at = coalesce(r.draining_at, %s)" if new == ReplicaState.DRAINING else "ended_at = %s"
    cur.execute(
        f"""UPDATE fleet_replica r SET state = %s, {when}, end_reason = %s
            FROM (SELECT id, state FROM fleet_replica WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
            WHERE r.id = was.id AND r.state IN {expected}
            RETURNING r.pilot_id AS pilot, r.id AS replica, was.state AS old, r.state AS new, r.pool_id AS pool""",
        (new, now, reason, list(replicas)),
    )
    moved = named(cur, Moved)
    event(cur, now, moved, reason)
    if new in REPLICA_ENDED:
        unclaim(cur, [str(m.replica) for m in moved])
    return moved
