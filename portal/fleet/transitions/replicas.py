"""Moves of replicas: wanted, drained and woken by the control loop; the rest is what their agents saw."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.fleet.states import REPLICA_ENDED, ReplicaState
from portal.fleet.transitions.traces import claim, event, unclaim
from portal.fleet.transitions.values import Moved, NewReplica, Seen

LIVE_REPLICA = "('wanted', 'starting', 'hot', 'draining', 'asleep')"


def want(cur: Cursor, replica: NewReplica, now: datetime) -> None:
    """→ wanted, with its GPUs claimed. Raises IntegrityError if another live replica has one of them."""
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
    """wanted | starting | hot | asleep → draining: out of routing; when nothing is in flight its agent stops it, or
    puts its engine to sleep."""
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
    """asleep → starting, its GPUs claimed again. Raises IntegrityError if another live replica has one of them."""
    cur.execute(
        """UPDATE fleet_replica SET state = 'starting', gpu_indices = %s, sleep_level = 0, phase = 'waking',
             started_at = %s
           WHERE id = %s AND state = 'asleep' RETURNING pilot_id, pool_id""",
        (json.dumps(list(gpu_indices)), now, str(replica)),
    )
    row = cur.fetchone()
    if row is None:
        return False
    claim(cur, row[0], replica, gpu_indices)
    event(
        cur,
        now,
        [Moved(UUID(str(row[0])), replica, ReplicaState.ASLEEP, ReplicaState.STARTING, row[1])],
        reason,
    )
    return True


def seen(cur: Cursor, pilot: UUID, replicas: Sequence[Seen], now: datetime) -> list[Moved]:
    """What a pilot's agent reported of its replicas. States move forward only: a replica that the loop drains
    is not hot again because a report was late."""
    if not replicas:
        return []
    moved = execute_values(
        cur,
        """UPDATE fleet_replica r SET
             state = v.state, phase = v.phase,
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
           FROM (VALUES %s) AS v (id, state, phase, started_at, hot_at, error, version, at, asleep_mb),
             fleet_replica was
           WHERE r.id = v.id AND was.id = v.id AND r.pilot_id = %s
             AND ((r.state = 'wanted' AND v.state IN ('starting', 'hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state = 'starting' AND r.phase <> v.phase)
               OR (r.state = 'hot' AND v.state IN ('starting', 'draining', 'asleep', 'stopped', 'failed'))
               OR (r.state = 'asleep' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'draining' AND v.state = 'asleep' AND r.sleep_level > 0)
               OR (r.state = 'draining' AND v.state IN ('stopped', 'failed')))
           RETURNING r.id, was.state, r.state, r.pool_id""".replace(
            "r.pilot_id = %s", f"r.pilot_id = '{UUID(str(pilot))}'"
        ),
        [
            (
                str(s.id),
                s.state,
                s.phase[:200],
                s.started_at,
                s.hot_at,
                s.error,
                s.engine_version[:50],
                now,
                s.asleep_mem_mb,
            )
            for s in replicas
        ],
        template="(%s::uuid, %s, %s, %s::timestamptz, %s::timestamptz, %s, %s, %s::timestamptz, %s::int)",
        page_size=len(replicas),
        fetch=True,
    )
    changes = [Moved(pilot, UUID(str(i)), old, new, pool) for i, old, new, pool in moved if old != new]
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
        _replicas(cur, [row[0] for row in cur.fetchall()], new, now, reason, expected)


def _replicas(
    cur: Cursor, replicas: Sequence[Any], new: str, now: datetime, reason: str, expected: str
) -> list[Moved]:
    when = "draining_at = coalesce(r.draining_at, %s)" if new == ReplicaState.DRAINING else "ended_at = %s"
    cur.execute(
        f"""UPDATE fleet_replica r SET state = %s, {when}, end_reason = %s
            FROM (SELECT id, state FROM fleet_replica WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
            WHERE r.id = was.id AND r.state IN {expected} RETURNING r.pilot_id, r.id, was.state, r.pool_id""",
        (new, now, reason, [str(r) for r in replicas]),
    )
    moved = [Moved(UUID(str(p)), UUID(str(r)), old, new, pool) for p, r, old, pool in cur.fetchall()]
    event(cur, now, moved, reason)
    if new in REPLICA_ENDED:
        unclaim(cur, [str(m.replica) for m in moved])
    return moved
