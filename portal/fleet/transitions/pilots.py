"""Moves of pilots: by the control loop, from what Slurm and their agents said."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.fleet.states import PilotState, ReplicaState
from portal.fleet.transitions.replicas import LIVE_REPLICA, replicas_of
from portal.fleet.transitions.traces import event, note_pilots
from portal.fleet.transitions.values import Moved, NewPilot, Registration, SlurmFact


def plan(cur: Cursor, pilot: NewPilot, now: datetime) -> None:
    """Write the intent to submit a job (→ planned)."""
    cur.execute(
        """INSERT INTO fleet_pilot (id, cluster, profile_id, state, job_name, gpus, nodes, mem_mb, walltime_min,
             planned_at, gpu_type, replaces_id, end_reason, slurm_state, slurm_reason, node, address, gpu_ids,
             agent_version, said_ending)
           VALUES (%s, %s, %s, 'planned', %s, %s, %s, %s, %s, %s, %s, %s, '', '', '', '', '', '[]', '', '')""",
        (str(pilot.id), pilot.cluster, pilot.profile_id, pilot.job_name, pilot.gpus, pilot.nodes, pilot.mem_mb,
         pilot.walltime_min, now, pilot.gpu_type, str(pilot.replaces) if pilot.replaces else None),
    )  # fmt: skip
    event(cur, now, [Moved(pilot.id, None, "", PilotState.PLANNED, "")], "")


def submitted(cur: Cursor, pilot: UUID, job_id: int, now: datetime) -> bool:
    """Note the job of a pilot (planned → submitted): sbatch answered, or a listing showed it under our name (adoption).
    Return whether the pilot moved."""
    cur.execute(
        """UPDATE fleet_pilot SET state = 'submitted', job_id = %s, submitted_at = %s
           WHERE id = %s AND state = 'planned' AND (agent_job_id IS NULL OR agent_job_id = %s) RETURNING id""",
        (job_id, now, str(pilot), job_id),
    )
    return note_pilots(cur, now, PilotState.PLANNED, PilotState.SUBMITTED, f"job {job_id}")


def slurm_said(cur: Cursor, facts: Sequence[SlurmFact], now: datetime) -> None:
    """Store what the listing showed. Moves nobody; facts of ended pilots are not touched."""
    if not facts:
        return
    execute_values(
        cur,
        """UPDATE fleet_pilot p SET slurm_state = v.state, slurm_reason = v.reason, slurm_seen_at = v.at,
             slurm_start_at = v.start_at, slurm_end_at = v.end_at,
             node = CASE WHEN v.node <> '' THEN v.node ELSE p.node END
           FROM (VALUES %s) AS v (id, state, reason, at, start_at, end_at, node)
           WHERE p.id = v.id AND p.state <> 'ended'""",
        [(str(f.pilot), f.state[:30], f.reason[:200], now, f.start_at, f.end_at, f.node) for f in facts],
        template="(%s::uuid, %s, %s, %s::timestamptz, %s::timestamptz, %s::timestamptz, %s)",
        page_size=len(facts),
    )


def pending(cur: Cursor, pilots: Iterable[UUID], now: datetime) -> None:
    """Move submitted → pending: a listing shows that their jobs wait."""
    cur.execute(
        """UPDATE fleet_pilot SET state = 'pending'
           WHERE id = ANY(%s::uuid[]) AND state = 'submitted' RETURNING id""",
        ([str(pilot) for pilot in pilots],),
    )
    note_pilots(cur, now, PilotState.SUBMITTED, PilotState.PENDING, "")


def register(cur: Cursor, said: Registration, now: datetime) -> bool:
    """Take an agent's registration if no other job holds this pilot; return whether. Of two jobs of one name one wins,
    the other's agent exits. The same job may register again, when its agent was restarted. Slurm's name of the node
    stands."""
    cur.execute(
        """UPDATE fleet_pilot SET agent_job_id = %s, registered_at = %s, address = %s,
             node = CASE WHEN node <> '' THEN node ELSE %s END, job_started_at = %s, gpu_ids = %s, agent_version = %s
           WHERE id = %s AND state <> 'ended' AND (agent_job_id IS NULL OR agent_job_id = %s)
             AND (job_id IS NULL OR job_id = %s)""",
        (said.job_id, now, said.address, said.node, said.job_started_at, json.dumps(list(said.gpu_ids)),
         said.agent_version, str(said.pilot), said.job_id, said.job_id),
    )  # fmt: skip
    return bool(cur.rowcount == 1)


def up(cur: Cursor, pilots: Iterable[UUID], now: datetime) -> list[UUID]:
    """Call those pilots up whose agents registered (submitted | pending → up); return them."""
    cur.execute(
        """UPDATE fleet_pilot p SET state = 'up', up_at = %s
           FROM (SELECT id, state FROM fleet_pilot WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE p.id = was.id AND p.state IN ('submitted', 'pending') AND p.registered_at IS NOT NULL
           RETURNING p.id, was.state""",
        (now, [str(p) for p in pilots]),
    )
    moved = [Moved(id_, None, old, PilotState.UP, "") for id_, old in cur.fetchall()]
    event(cur, now, moved, "")
    return [m.pilot for m in moved]


def drain_pilots(cur: Cursor, pilots: Iterable[UUID], now: datetime, reason: str) -> list[UUID]:
    """Drain pilots and their replicas (up → draining); return the pilots that moved."""
    cur.execute(
        """UPDATE fleet_pilot SET state = 'draining', draining_at = %s
           WHERE id = ANY(%s::uuid[]) AND state = 'up' RETURNING id""",
        (now, [str(p) for p in pilots]),
    )
    moved = [id_ for (id_,) in cur.fetchall()]
    event(cur, now, [Moved(p, None, PilotState.UP, PilotState.DRAINING, "") for p in moved], reason)
    replicas_of(cur, moved, ReplicaState.DRAINING, now, reason, "('wanted', 'starting', 'hot', 'asleep')")
    return moved


def end_pilots(
    cur: Cursor, pilots: Iterable[UUID], now: datetime, reason: str, *, failed: bool
) -> list[UUID]:
    """End pilots in any live state; return those that moved. Their replicas end with them: as failed where the pilot
    failed before they were hot, so that the failure is counted; else as stopped."""
    cur.execute(
        """UPDATE fleet_pilot p SET state = 'ended', ended_at = %s, end_reason = %s
           FROM (SELECT id, state FROM fleet_pilot WHERE id = ANY(%s::uuid[]) FOR UPDATE) was
           WHERE p.id = was.id AND p.state <> 'ended' RETURNING p.id, was.state""",
        (now, reason, [str(p) for p in pilots]),
    )
    moved = [Moved(id_, None, old, PilotState.ENDED, "") for id_, old in cur.fetchall()]
    event(cur, now, moved, reason)
    ended = [m.pilot for m in moved]
    if failed:
        replicas_of(cur, ended, ReplicaState.FAILED, now, reason, "('wanted', 'starting')")
    replicas_of(cur, ended, ReplicaState.STOPPED, now, reason, LIVE_REPLICA)
    return ended


def wish_staged(cur: Cursor, pilot: UUID, pool: str) -> bool:
    """Mark that a pilot's agent shall copy the pool's weights to scratch, instead of an earlier wish.

    Return whether that is new.
    """
    cur.execute(
        "UPDATE fleet_pilot SET stage_wish = %s WHERE id = %s AND state = 'up' AND stage_wish <> %s",
        (pool, str(pilot), pool),
    )
    return bool(cur.rowcount == 1)


def staged(cur: Cursor, pilot: UUID, pools: Sequence[str]) -> None:
    """Note the pools whose weights a pilot's agent says to have on scratch, complete."""
    cur.execute(
        "UPDATE fleet_pilot SET staged = %s WHERE id = %s AND state <> 'ended'",
        (json.dumps(list(pools)), str(pilot)),
    )


def said_ending(cur: Cursor, pilot: UUID, reason: str) -> None:
    """Note an agent's last words; the loop ends the pilot once they are here or Slurm says so."""
    cur.execute(
        "UPDATE fleet_pilot SET said_ending = %s WHERE id = %s AND state <> 'ended'",
        (reason[:2000], str(pilot)),
    )
