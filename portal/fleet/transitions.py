"""The only code that moves pilots and replicas from one state to another.

Like `portal.ledger.transitions`: set-based SQL over a plain psycopg2 cursor, every move names the state it
expects, what really moved comes out, the caller commits. Each move leaves a row in `fleet_fleetevent`.
The control loop moves pilots; what agents say of replicas comes in through the worker API.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

LIVE_REPLICA = "('wanted', 'starting', 'hot', 'draining', 'asleep')"


@dataclass(frozen=True, slots=True)
class NewPilot:
    """The intent to submit a job (invariant 2): written and committed before sbatch."""

    id: UUID
    cluster: str
    profile_id: int
    job_name: str
    gpus: int
    mem_mb: int
    walltime_min: int
    gpu_type: str = ""
    replaces: UUID | None = None


@dataclass(frozen=True, slots=True)
class NewReplica:
    id: UUID
    pilot: UUID
    pool: str
    model: str
    engine: str
    gpu_indices: tuple[int, ...]
    mem_mb: int
    cap: int


@dataclass(frozen=True, slots=True)
class SlurmFact:
    """One job as the last listing showed it."""

    pilot: UUID
    state: str
    reason: str
    start_at: datetime | None
    end_at: datetime | None
    node: str


@dataclass(frozen=True, slots=True)
class Registration:
    pilot: UUID
    job_id: int
    node: str
    address: str
    job_started_at: datetime
    gpu_ids: tuple[str, ...]
    agent_version: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica as its agent reported it."""

    id: UUID
    state: str  # starting | hot | draining | asleep | stopped | failed
    phase: str
    started_at: datetime | None
    hot_at: datetime | None
    error: str
    engine_version: str


@dataclass(frozen=True, slots=True)
class Moved:
    pilot: UUID
    replica: UUID | None
    old: str
    new: str
    pool: str


def plan(cur: Cursor, pilot: NewPilot, now: datetime) -> None:
    """→ planned."""
    cur.execute(
        """INSERT INTO fleet_pilot (id, cluster, profile_id, state, job_name, gpus, mem_mb, walltime_min, planned_at,
             gpu_type, replaces_id, end_reason, slurm_state, slurm_reason, node, address, gpu_ids, agent_version,
             said_ending)
           VALUES (%s, %s, %s, 'planned', %s, %s, %s, %s, %s, %s, %s, '', '', '', '', '', '[]', '', '')""",
        (str(pilot.id), pilot.cluster, pilot.profile_id, pilot.job_name, pilot.gpus, pilot.mem_mb,
         pilot.walltime_min, now, pilot.gpu_type, str(pilot.replaces) if pilot.replaces else None),
    )  # fmt: skip
    _event(cur, now, [Moved(pilot.id, None, "", "planned", "")], "")


def want(cur: Cursor, replica: NewReplica, now: datetime) -> None:
    """→ wanted, with its GPUs claimed. Raises IntegrityError if another live replica has one of them."""
    cur.execute(
        """INSERT INTO fleet_replica (id, pilot_id, pool_id, model, engine, state, gpu_indices, mem_mb, cap, wanted_at,
             end_reason, phase, engine_version)
           VALUES (%s, %s, %s, %s, %s, 'wanted', %s, %s, %s, %s, '', '', '')""",
        (str(replica.id), str(replica.pilot), replica.pool, replica.model, replica.engine,
         json.dumps(list(replica.gpu_indices)), replica.mem_mb, replica.cap, now),
    )  # fmt: skip
    _claim(cur, replica.pilot, replica.id, replica.gpu_indices)
    _event(cur, now, [Moved(replica.pilot, replica.id, "", "wanted", replica.pool)], "")


def submitted(cur: Cursor, pilot: UUID, job_id: int, now: datetime) -> bool:
    """planned → submitted: sbatch answered, or a listing showed the job under our name (adoption)."""
    cur.execute(
        """UPDATE fleet_pilot SET state = 'submitted', job_id = %s, submitted_at = %s
           WHERE id = %s AND state = 'planned' AND (agent_job_id IS NULL OR agent_job_id = %s) RETURNING id""",
        (job_id, now, str(pilot), job_id),
    )
    return _moved(cur, now, "planned", "submitted", f"job {job_id}")


def slurm_said(cur: Cursor, facts: Sequence[SlurmFact], now: datetime) -> None:
    """Stores what the listing showed, and moves submitted → pending. Facts of ended pilots are not touched."""
    if not facts:
        return
    execute_values(
        cur,
        """UPDATE fleet_pilot p SET slurm_state = v.state, slurm_reason = v.reason, slurm_seen_at = v.at,
             slurm_start_at = v.start_at, slurm_end_at = v.end_at,
             node = CASE WHEN v.node <> '' THEN v.node ELSE p.node END
           FROM (VALUES %s) AS v (id, state, reason, at, start_at, end_at, node)
           WHERE p.id = v.id AND p.state <> 'ended'""",
        [(str(f.pilot), f.state, f.reason[:200], now, f.start_at, f.end_at, f.node) for f in facts],
        template="(%s::uuid, %s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz, %s)",
        page_size=len(facts),
    )
    cur.execute(
        """UPDATE fleet_pilot SET state = 'pending'
           WHERE id = ANY(%s::uuid[]) AND state = 'submitted' RETURNING id""",
        ([str(f.pilot) for f in facts if f.state == "PENDING"],),
    )
    _moved(cur, now, "submitted", "pending", "")


def register(cur: Cursor, said: Registration, now: datetime) -> bool:
    """Takes an agent's registration if no other job holds this pilot: of two jobs of one name one wins, the
    other's agent exits. The same job may register again (its agent was restarted)."""
    cur.execute(
        """UPDATE fleet_pilot SET agent_job_id = %s, registered_at = %s, node = %s, address = %s,
             job_started_at = %s, gpu_ids = %s, agent_version = %s
           WHERE id = %s AND state <> 'ended' AND (agent_job_id IS NULL OR agent_job_id = %s)
             AND (job_id IS NULL OR job_id = %s)""",
        (said.job_id, now, said.node, said.address, said.job_started_at, json.dumps(list(said.gpu_ids)),
         said.agent_version, str(said.pilot), said.job_id, said.job_id),
    )  # fmt: skip
    return bool(cur.rowcount == 1)


def up(cur: Cursor, pilots: Iterable[UUID], now: datetime) -> list[UUID]:
    """submitted | pending → up, for those whose agent registered."""
    cur.execute(
        """UPDATE fleet_pilot p SET state = 'up', up_at = %s
           FROM (SELECT id, state FROM fleet_pilot WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE p.id = was.id AND p.state IN ('submitted', 'pending') AND p.registered_at IS NOT NULL
           RETURNING p.id, was.state""",
        (now, [str(p) for p in pilots]),
    )
    moved = [Moved(UUID(str(id_)), None, old, "up", "") for id_, old in cur.fetchall()]
    _event(cur, now, moved, "")
    return [m.pilot for m in moved]


def drain_pilots(cur: Cursor, pilots: Iterable[UUID], now: datetime, reason: str) -> list[UUID]:
    """up → draining, its replicas with it."""
    cur.execute(
        """UPDATE fleet_pilot SET state = 'draining', draining_at = %s
           WHERE id = ANY(%s::uuid[]) AND state = 'up' RETURNING id""",
        (now, [str(p) for p in pilots]),
    )
    moved = [UUID(str(row[0])) for row in cur.fetchall()]
    _event(cur, now, [Moved(p, None, "up", "draining", "") for p in moved], reason)
    _replicas_of(cur, moved, "draining", now, reason, "('wanted', 'starting', 'hot', 'asleep')")
    return moved


def end_pilots(
    cur: Cursor, pilots: Iterable[UUID], now: datetime, reason: str, *, failed: bool
) -> list[UUID]:
    """any live state → ended. Its replicas end with it: as failed where the pilot failed before they were hot,
    so that the failure is counted; else as stopped."""
    cur.execute(
        """UPDATE fleet_pilot p SET state = 'ended', ended_at = %s, end_reason = %s
           FROM (SELECT id, state FROM fleet_pilot WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE p.id = was.id AND p.state <> 'ended' RETURNING p.id, was.state""",
        (now, reason, [str(p) for p in pilots]),
    )
    moved = [Moved(UUID(str(id_)), None, old, "ended", "") for id_, old in cur.fetchall()]
    _event(cur, now, moved, reason)
    ended = [m.pilot for m in moved]
    if failed:
        _replicas_of(cur, ended, "failed", now, reason, "('wanted', 'starting')")
    _replicas_of(cur, ended, "stopped", now, reason, LIVE_REPLICA)
    return ended


def drain_replicas(
    cur: Cursor, replicas: Iterable[UUID], now: datetime, reason: str, sleep_level: int = 0
) -> list[Moved]:
    """wanted | starting | hot | asleep → draining: out of routing; when nothing is in flight its agent stops it, or
    puts its engine to sleep."""
    moved = _replicas(
        cur, [str(r) for r in replicas], "draining", now, reason, "('wanted', 'starting', 'hot', 'asleep')"
    )
    if sleep_level and moved:
        cur.execute(
            "UPDATE fleet_replica SET sleep_level = %s WHERE id = ANY(%s::uuid[]) AND state = 'draining'",
            (sleep_level, [str(m.replica) for m in moved]),
        )
    return moved


def wake(cur: Cursor, replica: UUID, gpu_indices: Sequence[int], now: datetime, reason: str) -> bool:
    """asleep → starting, its GPUs claimed again. Raises IntegrityError if another live replica has one of them."""
    cur.execute(
        """UPDATE fleet_replica SET state = 'starting', gpu_indices = %s, sleep_level = 0
           WHERE id = %s AND state = 'asleep' RETURNING pilot_id, pool_id""",
        (json.dumps(list(gpu_indices)), str(replica)),
    )
    row = cur.fetchone()
    if row is None:
        return False
    _claim(cur, row[0], replica, gpu_indices)
    _event(cur, now, [Moved(UUID(str(row[0])), replica, "asleep", "starting", row[1])], reason)
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
             ended_at = CASE WHEN v.state IN ('stopped', 'failed') THEN v.at END,
             end_reason = CASE WHEN v.state = 'failed' THEN coalesce(nullif(v.error, ''), 'engine failed')
                               WHEN v.state = 'stopped' THEN coalesce(nullif(v.error, ''), r.end_reason)
                               ELSE r.end_reason END
           FROM (VALUES %s) AS v (id, state, phase, started_at, hot_at, error, version, at),
             fleet_replica was
           WHERE r.id = v.id AND was.id = v.id AND r.pilot_id = %s
             AND ((r.state = 'wanted' AND v.state IN ('starting', 'hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'starting' AND v.state = 'starting' AND r.phase <> v.phase)
               OR (r.state = 'hot' AND v.state IN ('starting', 'draining', 'asleep', 'stopped', 'failed'))
               OR (r.state = 'asleep' AND v.state IN ('hot', 'draining', 'stopped', 'failed'))
               OR (r.state = 'draining' AND v.state IN ('asleep', 'stopped', 'failed')))
           RETURNING r.id, was.state, r.state, r.pool_id""".replace(
            "r.pilot_id = %s", f"r.pilot_id = '{UUID(str(pilot))}'"
        ),
        [
            (str(s.id), s.state, s.phase[:200], s.started_at, s.hot_at, s.error, s.engine_version[:50], now)
            for s in replicas
        ],
        template="(%s::uuid, %s, %s, %s::timestamptz, %s::timestamptz, %s, %s, %s::timestamptz)",
        page_size=len(replicas),
        fetch=True,
    )
    changes = [Moved(pilot, UUID(str(i)), old, new, pool) for i, old, new, pool in moved if old != new]
    _unclaim(cur, [str(m.replica) for m in changes if m.new in ("stopped", "failed", "asleep")])
    errors = {s.id: s.error for s in replicas}
    for change in changes:
        _event(cur, now, [change], errors.get(change.replica, "") if change.replica else "")
    return changes


def said_ending(cur: Cursor, pilot: UUID, reason: str) -> None:
    """The agent's last words; the loop ends the pilot once they are here or Slurm says so."""
    cur.execute(
        "UPDATE fleet_pilot SET said_ending = %s WHERE id = %s AND state <> 'ended'",
        (reason[:200], str(pilot)),
    )


def _replicas_of(
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
    when = "draining_at = coalesce(r.draining_at, %s)" if new == "draining" else "ended_at = %s"
    cur.execute(
        f"""UPDATE fleet_replica r SET state = %s, {when}, end_reason = %s
            FROM (SELECT id, state FROM fleet_replica WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
            WHERE r.id = was.id AND r.state IN {expected} RETURNING r.pilot_id, r.id, was.state, r.pool_id""",
        (new, now, reason, [str(r) for r in replicas]),
    )
    moved = [Moved(UUID(str(p)), UUID(str(r)), old, new, pool) for p, r, old, pool in cur.fetchall()]
    _event(cur, now, moved, reason)
    if new in ("stopped", "failed"):
        _unclaim(cur, [str(m.replica) for m in moved])
    return moved


def _claim(cur: Cursor, pilot: UUID, replica: UUID, gpu_indices: Sequence[int]) -> None:
    if gpu_indices:
        execute_values(
            cur,
            "INSERT INTO fleet_gpuclaim (pilot_id, gpu, replica_id) VALUES %s",
            [(str(pilot), gpu, str(replica)) for gpu in gpu_indices],
        )


def _unclaim(cur: Cursor, replicas: Sequence[str]) -> None:
    if replicas:
        cur.execute("DELETE FROM fleet_gpuclaim WHERE replica_id = ANY(%s::uuid[])", (list(replicas),))


def _moved(cur: Cursor, now: datetime, old: str, new: str, detail: str) -> bool:
    moved = [Moved(UUID(str(row[0])), None, old, new, "") for row in cur.fetchall()]
    _event(cur, now, moved, detail)
    return bool(moved)


def _event(cur: Cursor, now: datetime, moves: Sequence[Moved], detail: str) -> None:
    if moves:
        execute_values(
            cur,
            "INSERT INTO fleet_fleetevent (at, pilot, replica, old, new, detail) VALUES %s",
            [(now, str(m.pilot), str(m.replica) if m.replica else None, m.old, m.new, detail) for m in moves],
        )
