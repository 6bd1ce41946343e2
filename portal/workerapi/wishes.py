"""Rows of the fleet → what the portal wants of one pilot (wire.SyncAnswer). SELECTs only.

Separate because `register` and `sync` both answer with it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import NamedTuple, cast
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from gpuworker import wire
from portal.db.rows import first, named
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


class PilotRow(NamedTuple):
    """The row of a pilot, as far as the worker API has to know it before it answers. Times are UNIX
    seconds."""

    state: str
    agent_job_id: int | None
    address: str
    deadline_at: float | None
    said_ending: str
    staged: list[str]
    stage_wish: str
    inspects: bool  # it was chosen to look at folders and has not said what it found


class ReplicaRow(NamedTuple):
    """A live replica of a pilot, as the portal last knew it. Times are UNIX seconds."""

    id: str
    pool: str
    model: str
    state: str
    phase: str
    start: str
    cap: int
    hot_at: float | None


class _WantedRow(NamedTuple):
    """A replica with what its pool, its environment and its model say of it. Columns of JSON are text."""

    id: str
    pool: str
    engine: str
    state: str
    gpus: str
    cap: int
    sleep_level: int
    args: str
    load_limit_s: float
    drain_limit_s: float
    may_sleep: int
    python: str
    prologue: str
    image: str
    image_gpu: str
    binds: str
    model: str
    path: str
    revision: str
    roots: str | None  # of the project for which the model was registered; None: of no project's


def pilot_row(cur: Cursor, pilot: UUID) -> PilotRow | None:
    """Return what is known of a pilot, or None where no row is its."""
    cur.execute(
        """SELECT state, agent_job_id, address, extract(epoch FROM slurm_end_at)::float8 AS deadline_at, said_ending,
             ARRAY(SELECT jsonb_array_elements_text(staged)) AS staged, stage_wish,
             EXISTS (SELECT 1 FROM fleet_candidate c WHERE c.pilot_id = p.id AND c.found_at IS NULL) AS inspects
           FROM fleet_pilot p WHERE id = %s""",
        (str(pilot),),
    )
    return first(cur, PilotRow)


def replica_rows(cur: Cursor, pilot: UUID) -> dict[str, ReplicaRow]:
    """Return the pilot's live replicas by id."""
    cur.execute(
        """SELECT id::text, pool_id AS pool, model, state, phase, start, cap,
             extract(epoch FROM hot_at)::float8 AS hot_at
           FROM fleet_replica WHERE pilot_id = %s AND state NOT IN ('stopped', 'failed')""",
        (str(pilot),),
    )
    return {row.id: row for row in named(cur, ReplicaRow)}


def answer(
    cur: Cursor, pilot: UUID, row: PilotRow, rows: Sequence[wire.RowRef], interval_s: float
) -> wire.SyncAnswer:
    """Return what the portal wants of this pilot now; `rows` are those of requests that its agent says it holds."""
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
        """SELECT r.id::text, r.pool_id AS pool, r.engine, r.state, r.gpu_indices::text AS gpus, r.cap, r.sleep_level,
             p.args::text, p.load_limit_s::float8, p.drain_limit_s::float8, p.sleep_level AS may_sleep,
             e.python, e.prologue, e.image, e.image_gpu, e.image_binds::text AS binds,
             r.model, coalesce(m.path, '') AS path, coalesce(m.revision, '') AS revision, o.model_roots::text AS roots
           FROM fleet_replica r JOIN catalog_pool p ON p.name = r.pool_id
             JOIN catalog_environment e ON e.id = p.environment_id
             LEFT JOIN catalog_model m ON m.name = r.model
             LEFT JOIN accounts_project o ON o.id = m.registered_for_id
           WHERE r.pilot_id = %s AND r.state NOT IN ('stopped', 'failed') ORDER BY r.wanted_at, r.id""",
        (str(pilot),),
    )
    return [_replica(row) for row in named(cur, _WantedRow)]


def _replica(row: _WantedRow) -> wire.DesiredReplica:
    base = _hosted(row)
    return wire.DesiredReplica(
        id=row.id,
        pool=row.pool,
        model=base.name,
        engine=cast(wire.EngineName, row.engine),
        state="asleep" if row.state == ReplicaState.DRAINING and row.sleep_level else _DESIRED[row.state],
        path=base.path,
        python=row.python,
        gpus=list(json.loads(row.gpus)),
        cap=row.cap,
        args=dict(json.loads(row.args)),
        load_limit_s=row.load_limit_s,
        drain_limit_s=row.drain_limit_s,
        may_sleep=row.may_sleep,
        sleep_level=row.sleep_level,
        roots=base.roots,
        prologue=row.prologue.replace("\r\n", "\n"),
        image=row.image,
        image_gpu=cast(wire.ImageGpu, row.image_gpu),
        binds=list(json.loads(row.binds)),
        models=[base],
    )


def _hosted(row: _WantedRow) -> wire.HostedModel:
    # A project that has lost its roots: nothing lies below this one.
    roots = [] if row.roots is None else (json.loads(row.roots) or ["/dev/null"])
    return wire.HostedModel(row.model, row.path, row.revision, roots)


def _stage(cur: Cursor, row: PilotRow) -> list[wire.StageWish]:
    """Return the control loop's wish of weights to be copied to scratch, until it is met."""
    if not row.stage_wish or row.state != PilotState.UP or row.stage_wish in row.staged:
        return []
    cur.execute(
        """SELECT m.path FROM catalog_pool p JOIN catalog_model m ON m.id = p.base_id
           WHERE p.name = %s AND m.enabled AND m.path <> ''""",
        (row.stage_wish,),
    )
    return [wire.StageWish(row.stage_wish, path) for (path,) in cur.fetchall()]


def inspections(cur: Cursor, pilot: UUID) -> list[wire.InspectWish]:
    """Return the folders that this pilot was chosen to look at. A project without roots has none that could be."""
    cur.execute(
        """SELECT c.id, c.path, o.model_roots::text FROM fleet_candidate c
             JOIN accounts_project o ON o.id = c.project_id
           WHERE c.pilot_id = %s AND c.found_at IS NULL AND o.model_roots <> '[]' ORDER BY c.id""",
        (str(pilot),),
    )
    return [wire.InspectWish(id_, path, list(json.loads(roots))) for id_, path, roots in cur.fetchall()]


def _cancels(cur: Cursor, pilot: UUID, rows: Sequence[wire.RowRef]) -> list[wire.Cancel]:
    """Return those of the rows that the agent says it holds which are not its any more, at that attempt. Rows that
    ended well are not among them: they are on their way out of its hands anyway."""
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
    """Return whether an operator asked for the log after the one that is here was sent."""
    cur.execute(
        """SELECT EXISTS (SELECT 1 FROM fleet_command c LEFT JOIN fleet_pilotlog l ON l.pilot_id = c.pilot_id
             WHERE c.pilot_id = %s AND c.kind = 'log' AND c.state = 'pending'
               AND (l.at IS NULL OR l.at < c.created_at))""",
        (str(pilot),),
    )
    row = cur.fetchone()
    return bool(row and row[0])
