"""One request as the ledger knows it, with its answer where that is kept. SELECTs only.

Separate from the writer, whose one connection must not wait for a large result.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.db.rows import first
from portal.ledger.states import RequestState


@dataclass(frozen=True, slots=True)
class Found:
    """A request with its answer, as far as that is kept."""

    id: UUID
    user_id: int
    project_id: int
    api: str
    model: str
    lane: str
    stream: bool
    state: str
    accepted_at: datetime
    ended_at: datetime | None
    http_status: int | None
    error_code: str | None
    error_text: str | None
    result_type: str
    result: bytes | None

    @property
    def answers_again(self) -> bool:
        """Return whether it came to an answer that is as good the second time: the engine's, or its refusal."""
        return (
            self.state in (RequestState.DONE, RequestState.FAILED)
            and self.result is not None
            and (self.http_status or 500) < 500
        )


def find(cur: Cursor, id_: UUID) -> Found | None:
    """Return the request of this id, or None where there is none."""
    cur.execute(
        """SELECT r.id, r.user_id, r.project_id, r.api, r.model, r.lane, r.stream, r.state, r.accepted_at, r.ended_at,
             r.http_status, r.error_code, r.error_text, coalesce(p.result_type, 'application/json')
             AS result_type, p.result
           FROM ledger_request r LEFT JOIN ledger_payload p ON p.request = r.id WHERE r.id = %s""",
        (str(id_),),
    )
    found = first(cur, Found)
    if found is None or found.result is None:
        return found
    return replace(found, result=bytes(found.result))  # the driver hands out a view of its memory
