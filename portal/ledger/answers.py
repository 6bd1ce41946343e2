"""One request as the ledger knows it, with its answer where that is kept. SELECTs only.

Separate from the writer, whose one connection must not wait for a large result.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from psycopg2.extensions import cursor as Cursor

from portal.ledger.states import RequestState


@dataclass(frozen=True, slots=True)
class Found:
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
    result: bytes | None

    @property
    def answers_again(self) -> bool:
        """It came to an answer that is as good the second time: the engine's, or its refusal of the request."""
        return (
            self.state in (RequestState.DONE, RequestState.FAILED)
            and self.result is not None
            and (self.http_status or 500) < 500
        )


def find(cur: Cursor, id_: UUID) -> Found | None:
    cur.execute(
        """SELECT r.id, r.user_id, r.project_id, r.api, r.model, r.lane, r.stream, r.state, r.accepted_at, r.ended_at,
             r.http_status, r.error_code, r.error_text, p.result
           FROM ledger_request r LEFT JOIN ledger_payload p ON p.request = r.id WHERE r.id = %s""",
        (str(id_),),
    )
    row = cur.fetchone()
    if row is None:
        return None
    values: list[Any] = [UUID(str(row[0])), *row[1:-1], None if row[-1] is None else bytes(row[-1])]
    return Found(*values)
