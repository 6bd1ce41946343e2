"""What moves leave behind them: a row in `fleet_fleetevent` for each, and claims on GPUs while a replica needs them.

Separate because the moves of pilots and those of replicas both leave them.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor
from psycopg2.extras import execute_values

from portal.fleet.transitions.values import Moved


def note_pilots(cur: Cursor, now: datetime, old: str, new: str, detail: str) -> bool:
    """Write an event for each pilot whose id the last statement returned; return whether there is any."""
    moved = [Moved(id_, None, old, new, "") for (id_,) in cur.fetchall()]
    event(cur, now, moved, detail)
    return bool(moved)


def event(cur: Cursor, now: datetime, moves: Sequence[Moved], detail: str) -> None:
    if moves:
        execute_values(
            cur,
            "INSERT INTO fleet_fleetevent (at, pilot, replica, old, new, detail) VALUES %s",
            [(now, str(m.pilot), str(m.replica) if m.replica else None, m.old, m.new, detail) for m in moves],
        )


def claim(cur: Cursor, pilot: UUID, replica: UUID, gpu_indices: Sequence[int]) -> None:
    if gpu_indices:
        execute_values(
            cur,
            "INSERT INTO fleet_gpuclaim (pilot_id, gpu, replica_id) VALUES %s",
            [(str(pilot), gpu, str(replica)) for gpu in gpu_indices],
        )


def unclaim(cur: Cursor, replicas: Sequence[str]) -> None:
    if replicas:
        cur.execute("DELETE FROM fleet_gpuclaim WHERE replica_id = ANY(%s::uuid[])", (list(replicas),))
