"""What a gateway asks of the ledger → SQL in one transaction, and what each request is answered.

Separate from `writer`, which gathers moves and tries again, and knows nothing of what they are. A COMMIT whose answer
was lost may have happened: the second time, what "moved nothing" is read back, so that our own first try is not taken
for somebody else's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.ledger import backlog, repeats, transitions
from portal.ledger.repeats import Repeat
from portal.ledger.states import RequestState
from portal.ledger.transitions import Finish, Grant, Granted, Interrupted, NewRequest, Recorded


@dataclass(frozen=True, slots=True)
class Cancel:
    """The end of a request whatever it is doing. Also the way to give up on a move whose outcome is not known:
    it comes after that move, and so finds the row wherever it got to."""

    id: UUID
    reason: str


@dataclass(frozen=True, slots=True)
class EndQueued:
    id: UUID
    state: str  # expired | failed
    error_code: str
    error_text: str


@dataclass(frozen=True, slots=True)
class Look:
    """A question: what became of a request that did not move."""

    id: UUID


@dataclass(frozen=True, slots=True)
class LookAtLine:
    """A question: how the line stands that a request is about to enter."""

    id: UUID
    pool: str
    lane: str


@dataclass(frozen=True, slots=True)
class Used:
    """A request showed this token."""

    id: UUID
    token_id: int


Move = (
    NewRequest
    | Recorded
    | Grant
    | Interrupted
    | Finish
    | Cancel
    | EndQueued
    | Repeat
    | Look
    | LookAtLine
    | Used
)


def write(
    cur: Cursor, moves: Sequence[Move], now: datetime, poison_after: int, *, again: bool
) -> dict[UUID, Any]:
    """Write the moves, and return what is answered, by request; None where it is not named. The caller commits.

    `again`: an earlier try with the same `now` may have been committed.
    """
    by_kind: dict[type[Any], list[Any]] = {}
    for move in moves:
        by_kind.setdefault(type(move), []).append(move)

    def of(kind: type[Any]) -> list[Any]:
        return by_kind.get(kind, [])

    answers: dict[UUID, Any] = {}
    transitions.accept(cur, of(NewRequest))
    transitions.record(cur, of(Recorded))
    if grants := of(Grant):
        answers.update(transitions.grant(cur, grants, now))
        if again:
            answers.update(_granted_before(cur, grants, now))
    if interrupts := of(Interrupted):
        queued, poisoned = transitions.interrupt(cur, interrupts, now, poison_after)
        if again:
            answers.update(_interrupted_before(cur, interrupts))
        answers.update(
            dict.fromkeys(queued, RequestState.QUEUED) | dict.fromkeys(poisoned, RequestState.FAILED)
        )
    transitions.finish(cur, of(Finish))
    for end in of(EndQueued):
        transitions.end_queued(
            cur, [end.id], now, state=end.state, error_code=end.error_code, error_text=end.error_text
        )
    for cancel in of(Cancel):
        transitions.cancel(cur, [cancel.id], now, cancel.reason)
    for move in moves:
        if isinstance(move, Repeat) and (said := repeats.apply(cur, move, now)) is not None:
            answers[move.id] = said
    if used := of(Used):
        cur.execute(
            "UPDATE accounts_apitoken SET last_used_at = %s WHERE id = ANY(%s)",
            (now, [use.token_id for use in used]),
        )
    for standing in of(LookAtLine):
        answers[standing.id] = backlog.line(cur, standing.pool, standing.lane)
    if looks := of(Look):
        cur.execute(
            "SELECT id, state, lane FROM ledger_request WHERE id = ANY(%s)",
            ([look.id for look in looks],),
        )
        answers.update({id_: (state, lane) for id_, state, lane in cur.fetchall()})
    return answers


def _granted_before(cur: Cursor, grants: Sequence[Grant], now: datetime) -> dict[UUID, Granted]:
    """Return those that the try whose answer was lost had moved: the time of the grant is ours."""
    cur.execute(
        """SELECT id, attempt, slurm_s, load_s FROM ledger_request
           WHERE id = ANY(%s) AND state = 'running' AND holder = %s AND granted_at = %s""",
        ([grant.id for grant in grants], grants[0].holder, now),
    )
    return {id_: Granted(*said) for id_, *said in cur.fetchall()}


def _interrupted_before(cur: Cursor, rows: Sequence[Interrupted]) -> dict[UUID, str]:
    cur.execute(
        """SELECT id, state, attempt FROM ledger_request
           WHERE id = ANY(%s) AND holder = %s
             AND (state = 'queued' OR (state = 'failed' AND error_code = 'poison'))""",
        ([row.id for row in rows], rows[0].holder),
    )
    attempts = {row.id: row.attempt for row in rows}
    return {id_: state for id_, state, attempt in cur.fetchall() if attempts[id_] == attempt}
