"""Asking twice is asking once: tickets, which keep a place in line, and Idempotency-Keys, in SQL.

Separate from `transitions`, which moves states: here only rows beside the requests are written, and where a state
has to move a transition is called. No Django: gateways use it. The caller commits. Every move carries an id of
its own, so that one whose COMMIT was not answered can be made again and finds what it did the first time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.ledger import transitions
from portal.ledger.states import RequestState

_AT_ONCE = 500  # rows in one sweep


@dataclass(frozen=True, slots=True)
class Away:
    """The client of a queued request was told to come again: its place is kept until `expires_at`."""

    id: UUID
    holder: str
    token_id: int
    digest: str
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ClaimTicket:
    """A client has come again: it wants its place back. `id`: of this try."""

    id: UUID
    holder: str
    token_id: int
    digest: str


@dataclass(frozen=True, slots=True)
class PutBack:
    """The try left before it could use its ticket."""

    id: UUID


@dataclass(frozen=True, slots=True)
class Remember:
    """The wish that `id` answers for this key, if no other request does already, or only `instead_of`, which gave no
    answer."""

    id: UUID
    token_id: int
    key: str
    digest: str
    expires_at: datetime
    instead_of: UUID | None = None


@dataclass(frozen=True, slots=True)
class Unremember:
    """The request was refused before it was accepted: it answers for no key."""

    id: UUID


@dataclass(frozen=True, slots=True)
class Ticketed:
    """The request that a ticket was for. `place`: where it stands in line; None = it is not waiting any more."""

    request: UUID
    place: transitions.Place | None


@dataclass(frozen=True, slots=True)
class Remembered:
    """The request that answers for the key, and the digest of what it was asked."""

    request: UUID
    digest: str


Repeat = Away | ClaimTicket | PutBack | Remember | Unremember
Answer = Ticketed | Remembered | None


def apply(cur: Cursor, move: Repeat, now: datetime) -> Answer:
    match move:
        case Away():
            _leave(cur, move)
        case ClaimTicket():
            return _claim(cur, move, now)
        case PutBack():
            cur.execute("UPDATE ledger_ticket SET claimed_by = NULL WHERE claimed_by = %s", (move.id,))
        case Remember():
            return _remember(cur, move, now)
        case Unremember():
            cur.execute("DELETE FROM ledger_idempotencykey WHERE request = %s", (move.id,))
    return None


def _leave(cur: Cursor, move: Away) -> None:
    cur.execute(
        """INSERT INTO ledger_ticket (request, token_id, digest, expires_at)
           SELECT id, %s, %s, %s FROM ledger_request
           WHERE id = %s AND state = 'queued' AND lane = 'held' AND holder = %s
           ON CONFLICT (request) DO UPDATE SET claimed_by = NULL, expires_at = excluded.expires_at""",
        (move.token_id, move.digest, move.expires_at, move.id, move.holder),
    )


def _claim(cur: Cursor, move: ClaimTicket, now: datetime) -> Ticketed | None:
    """Take the oldest place of those that are free. A request that was detached meanwhile comes back, if it still
    waits; one that runs or has its answer is named, so that the client can have that."""
    cur.execute("SELECT request FROM ledger_ticket WHERE claimed_by = %s", (move.id,))
    found = cur.fetchone()
    if found is None:
        cur.execute(
            """UPDATE ledger_ticket SET claimed_by = %s WHERE request = (
                 SELECT t.request FROM ledger_ticket t JOIN ledger_request r ON r.id = t.request
                 WHERE t.token_id = %s AND t.digest = %s AND t.claimed_by IS NULL AND t.expires_at > %s
                   AND r.state IN ('queued', 'running', 'done')
                 ORDER BY r.order_key, r.id LIMIT 1 FOR UPDATE OF t SKIP LOCKED)
               RETURNING request""",
            (move.id, move.token_id, move.digest, now),
        )
        found = cur.fetchone()
    if found is None:
        return None
    request = UUID(str(found[0]))
    return Ticketed(request, transitions.reattach(cur, request, move.holder))


def _remember(cur: Cursor, move: Remember, now: datetime) -> Remembered:
    what = (str(move.id), move.digest, move.expires_at)
    cur.execute(
        """UPDATE ledger_idempotencykey SET request = %s, digest = %s, expires_at = %s
           WHERE token_id = %s AND key = %s AND (expires_at <= %s OR request = %s)""",
        (*what, move.token_id, move.key, now, move.instead_of),
    )
    cur.execute(
        """INSERT INTO ledger_idempotencykey (request, digest, expires_at, token_id, key)
           VALUES (%s, %s, %s, %s, %s) ON CONFLICT (token_id, key) DO NOTHING""",
        (*what, move.token_id, move.key),
    )
    cur.execute(
        "SELECT request, digest FROM ledger_idempotencykey WHERE token_id = %s AND key = %s",
        (move.token_id, move.key),
    )
    request, digest = cur.fetchone() or what[:2]
    return Remembered(UUID(str(request)), digest)


# Sweeps. Rows that somebody has in hand are skipped and found the next time.


def expire(cur: Cursor, now: datetime) -> list[UUID]:
    """Move requests whose ticket nobody came back for: queued → expired."""
    cur.execute(
        """DELETE FROM ledger_ticket WHERE request IN (
             SELECT request FROM ledger_ticket WHERE expires_at <= %s LIMIT %s FOR UPDATE SKIP LOCKED)
           RETURNING request, claimed_by""",
        (now, _AT_ONCE),
    )
    away = [str(request) for request, claimed_by in cur.fetchall() if claimed_by is None]
    if not away:
        return []
    # One that was detached is a pilot's to run: it is not waiting for its client any more.
    cur.execute("SELECT id FROM ledger_request WHERE id = ANY(%s::uuid[]) AND lane = 'held'", (away,))
    return transitions.end_queued(
        cur,
        [UUID(str(id_)) for (id_,) in cur.fetchall()],
        now,
        state=RequestState.EXPIRED,
        error_code="ticket_expired",
        error_text="The model was not ready in time, and its client did not come again.",
    )


def forget(cur: Cursor, now: datetime) -> int:
    """Delete Idempotency-Keys that are over, and the answers that were kept only for them."""
    cur.execute(
        """WITH gone AS (
             DELETE FROM ledger_idempotencykey WHERE id IN (
               SELECT id FROM ledger_idempotencykey WHERE expires_at <= %s LIMIT %s FOR UPDATE SKIP LOCKED)
             RETURNING request)
           DELETE FROM ledger_payload p USING gone, ledger_request r
           WHERE p.request = gone.request AND r.id = p.request AND r.lane = 'held' AND r.ended_at IS NOT NULL""",
        (now, _AT_ONCE),
    )
    return cur.rowcount


def read_ticketed(cur: Cursor) -> frozenset[int]:
    """Return the tokens with places in line that are kept for clients who were told to come again."""
    cur.execute("SELECT DISTINCT token_id FROM ledger_ticket WHERE claimed_by IS NULL AND expires_at > now()")
    return frozenset(token for (token,) in cur.fetchall())
