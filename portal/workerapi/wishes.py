"""Rows of the fleet → what the portal wants of one pilot (wire.SyncAnswer). SELECTs only.

Separate because `register` and `sync` both answer with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from gpuworker import wire
from portal.fleet.states import PilotState, ReplicaState
from portal.ledger.states import RequestState

# What the loop's state of a replica asks of its agent.
_DESIRED: dict[str, wire.DesiredState] = {
    ReplicaState.WANTED: "hot",
    ReplicaState.STARTING: "hot",
    ReplicaState.HOT: "hot",
    ReplicaState.DRAINING: "draining",
    ReplicaState.ASLEEP: "asleep",
}


@dataclass(frozen=True, slots=True)
class PilotRow:
    state: str
    agent_job_id: int | None
    address: str
    deadline_at: float | None
    said_ending: str
    staged: tuple[str, ...] = ()
    stage_wish: str = ""
    inspects: bool = False  # it was chosen to look at folders and has not said what it found


@dataclass(frozen=True, slots=True)
class ReplicaRow:
    id: str
    pool: str
    model: str
    state: str
    phase: str
    cap: int
    hot_at: float | None


def pilot_row(cur: Cursor, pilot: UUID) -> PilotRow | None:
    cur.execute(
        """SELECT state, agent_job_id, address, extract(epoch FROM slurm_end_at), said_ending,
             staged::text, stage_wish,
             EXISTS (SELECT 1 FROM fleet_candidate c WHERE c.pilot_id = p.id AND c.found_at IS NULL)
           FROM fleet_pilot p WHERE id = %s""",
        (str(pilot),),
    )
    row = cur.fetchone()
    if row is None:
        return None
    state, agent_job_id, address, ends_at, ending, staged, wish, inspects = row
    deadline_at = None if ends_at is None else float(ends_at)
    return PilotRow(
        state, agent_job_id, address, deadline_at, ending, tuple(json.loads(staged)), wish, inspects
    )


def replica_rows(cur: Cursor, pilot: UUID) -> dict[str, ReplicaRow]:
    """Live ones, by id."""
    cur.execute(
        """SELECT id, pool_id, model, state, phase, cap, extract(epoch FROM hot_at) FROM fleet_replica
           WHERE pilot_id = %s AND state NOT IN ('stopped', 'failed')""",
        (str(pilot),),
    )
    return {
        str(id_): ReplicaRow(str(id_), pool, model, state, phase, cap, None if hot is None else float(hot))
        for id_, pool, model, state, phase, cap, hot in cur.fetchall()
    }


def answer(
    cur: Cursor, pilot: UUID, row: PilotRow, rows: Sequence[wire.RowRef], interval_s: float
) -> wire.SyncAnswer:
    return wire.SyncAnswer(
        desired=_desired(cur, pilot),
        drain=row.state == PilotState.DRAINING,
        deadline_at=row.deadline_at,
        cancels=_cancels(cur, pilot, rows),
        interval_s=interval_s,
        want_log=_wants_log(cur, pilot),
        at=time.time(),
        stage=_stage(cur, row),
        inspect=inspections(cur, pilot) if row.inspects else [],
    )


def _desired(cur: Cursor, pilot: UUID) -> list[wire.DesiredReplica]:
    cur.execute(
        """SELECT r.id, r.pool_id, r.model, r.engine, r.state, coalesce(m.path, ''), e.python, r.gpu_indices::text,
             r.cap, p.args::text, p.load_limit_s, p.drain_limit_s, p.sleep_level, r.sleep_level, o.model_roots::text,
             e.prologue, e.image, e.image_gpu, e.image_binds::text
           FROM fleet_replica r JOIN catalog_pool p ON p.name = r.pool_id
             JOIN catalog_environment e ON e.id = p.environment_id
             LEFT JOIN catalog_model m ON m.name = r.model
             LEFT JOIN accounts_project o ON o.id = m.registered_for_id
           WHERE r.pilot_id = %s AND r.state NOT IN ('stopped', 'failed') ORDER BY r.wanted_at, r.id""",
        (str(pilot),),
    )
    return [_replica(*row) for row in cur.fetchall()]


def _replica(
    id_: UUID, pool: str, model: str, engine: Any, state: str, path: str, python: str, gpus: str, cap: int,
    args: str, load_limit_s: int, drain_limit_s: int, may_sleep: int, sleep_level: int, roots: str | None,
    prologue: str, image: str, image_gpu: Any, binds: str,
) -> wire.DesiredReplica:  # fmt: skip
    return wire.DesiredReplica(
        id=str(id_),
        pool=pool,
        model=model,
        engine=engine,
        state="asleep" if state == ReplicaState.DRAINING and sleep_level else _DESIRED[state],
        path=path,
        python=python,
        gpus=list(json.loads(gpus)),
        cap=cap,
        args=dict(json.loads(args)),
        load_limit_s=float(load_limit_s),
        drain_limit_s=float(drain_limit_s),
        may_sleep=may_sleep,
        sleep_level=sleep_level,
        # A project that has lost its roots: nothing lies below this one.
        roots=[] if roots is None else (json.loads(roots) or ["/dev/null"]),
        prologue=prologue.replace("\r\n", "\n"),
        image=image,
        image_gpu=image_gpu,
        binds=list(json.loads(binds)),
    )


def _stage(cur: Cursor, row: PilotRow) -> list[wire.StageWish]:
    """The wish of the control loop, until it is met."""
    if not row.stage_wish or row.state != PilotState.UP or row.stage_wish in row.staged:
        return []
    cur.execute(
        """SELECT path FROM catalog_model WHERE pool_id = %s AND enabled AND path <> '' ORDER BY id LIMIT 1""",
        (row.stage_wish,),
    )
    return [wire.StageWish(row.stage_wish, path) for (path,) in cur.fetchall()]


def inspections(cur: Cursor, pilot: UUID) -> list[wire.InspectWish]:
    """Folders that this pilot was chosen to look at. A project without roots has none that could be."""
    cur.execute(
        """SELECT c.id, c.path, o.model_roots::text FROM fleet_candidate c
             JOIN accounts_project o ON o.id = c.project_id
           WHERE c.pilot_id = %s AND c.found_at IS NULL AND o.model_roots <> '[]' ORDER BY c.id""",
        (str(pilot),),
    )
    return [wire.InspectWish(id_, path, list(json.loads(roots))) for id_, path, roots in cur.fetchall()]


def _cancels(cur: Cursor, pilot: UUID, rows: Sequence[wire.RowRef]) -> list[wire.Cancel]:
    """Of the rows the agent says it holds: those that are not its any more, at that attempt. Rows that ended
    well are not among them, they are on their way out of its hands anyway."""
    held = {row.request: row.attempt for row in rows}
    cur.execute(
        """SELECT id, attempt, state, holder FROM ledger_request WHERE id = ANY(%s::uuid[])""",
        (list(held),),
    )
    return [
        wire.Cancel(str(id_), held[str(id_)])
        for id_, attempt, state, holder in cur.fetchall()
        if state not in (RequestState.DONE, RequestState.FAILED)
        and (state != RequestState.RUNNING or attempt != held[str(id_)] or holder != str(pilot))
    ]


def _wants_log(cur: Cursor, pilot: UUID) -> bool:
    """An operator asked after the log that we have."""
    cur.execute(
        """SELECT EXISTS (SELECT 1 FROM fleet_command c LEFT JOIN fleet_pilotlog l ON l.pilot_id = c.pilot_id
             WHERE c.pilot_id = %s AND c.kind = 'log' AND c.state = 'pending'
               AND (l.at IS NULL OR l.at < c.created_at))""",
        (str(pilot),),
    )
    row = cur.fetchone()
    return bool(row and row[0])
