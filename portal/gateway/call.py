"""One request in the gateway's hands: what is known of it and how far it has come; and its rows in the ledger.

Separate from `serve`, which moves it: here it only turns into the values that the ledger's transitions take.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from uuid import UUID

from portal.acceptance.asked import Asked
from portal.accounts.callers import Caller
from portal.admission.place import Place
from portal.admission.slots import Route
from portal.gateway.forward import End
from portal.http.exchange import Exchange
from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import Finish, NewRequest, Recorded


@dataclass(slots=True, eq=False)
class Call:
    id: UUID
    ex: Exchange
    asked: Asked
    caller: Caller
    pool: str
    accepted_at: datetime
    since: float  # monotonic, the same moment
    task: asyncio.Task[Any] | None
    priority: int = 0  # among what its project has waiting
    order_key: float = 0.0  # its place in line, once it has to wait
    key: str = ""  # its Idempotency-Key: it always gets a row, and its answer is kept
    digest: str = ""  # of what is asked; known where asking again may matter
    claim: UUID | None = None  # the try that took up its ticket
    offer: Route | None = None  # the slot that it got on entering; `offered`: it has asked for one
    offered: bool = False
    route: Route | None = None  # where it runs; None while it waits
    granted_at: datetime | None = None
    parked: bool = False  # over a limit that refills; only where nobody waits
    used: int | None = None  # tokens, once the engine has said
    has_row: bool = False  # its acceptance has been asked of the ledger
    attempt: int = 0  # > 0: its row is running, at this attempt
    crashes: int = 0
    stopped: Literal["", "left", "cancelled"] = ""
    settled: bool = field(default=False)  # its end has been written, or is somebody else's

    @property
    def request(self) -> str:
        return self.ex.request_id

    @property
    def place(self) -> Place:
        """Return what it asks of its pool's replicas."""
        return Place(self.pool, self.request, alone=self.crashes > 0)

    @property
    def later(self) -> bool:
        """Its client does not wait for the answer."""
        return self.asked.background or "respond-async" in self.ex.header(b"prefer").lower()

    @property
    def first_token_at(self) -> datetime | None:
        at = self.ex.content_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    def stop(self, why: Literal["left", "cancelled"]) -> None:
        """Breaks off whatever is being awaited for it; `serve` then ends it."""
        if not self.stopped and not self.settled and self.task is not None:
            self.stopped = why
            self.task.cancel()

    def to_accept(self, gateway: str | None) -> NewRequest:
        """`gateway`: that holds its connection; None = nobody waits for it."""
        return NewRequest(
            id=self.id,
            pool=self.pool,
            model=self.asked.model,
            project_id=self.caller.project_id,
            user_id=self.caller.user_id,
            token_id=self.caller.token_id,
            api=self.asked.api,
            stream=self.asked.stream and gateway is not None,
            lane=Lane.ASYNC if gateway is None else Lane.HELD,
            priority=self.priority,
            order_key=self.order_key,
            holder=gateway,
            accepted_at=self.accepted_at,
            body=self.asked.body,
            crashes=self.crashes,
            state=RequestState.PARKED if self.parked else RequestState.QUEUED,
        )

    def recorded(self, gateway: str, end: Ended) -> Recorded:
        assert self.route is not None and self.granted_at is not None
        return Recorded(
            id=self.id,
            pool=self.pool,
            model=self.asked.model,
            project_id=self.caller.project_id,
            user_id=self.caller.user_id,
            token_id=self.caller.token_id,
            api=self.asked.api,
            stream=self.asked.stream,
            holder=gateway,
            replica=UUID(self.route.replica),
            state=end.state,
            accepted_at=self.accepted_at,
            granted_at=self.granted_at,
            first_token_at=end.first_token_at,
            ended_at=datetime.now(UTC),
            http_status=end.http_status,
            error_code=end.error_code,
            error_text=end.error_text,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
        )

    def finished(self, gateway: str, end: Ended) -> Finish:
        return Finish(
            id=self.id,
            attempt=self.attempt,
            holder=gateway,
            state=end.state,
            ended_at=datetime.now(UTC),
            first_token_at=end.first_token_at,
            http_status=end.http_status,
            error_code=end.error_code,
            error_text=end.error_text,
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            result=end.result if self.key else None,
            keep=bool(self.key),
        )


@dataclass(frozen=True, slots=True)
class Ended:
    """How a request ended, in the ledger's terms. Engines' own words may quote the prompt: they stay out."""

    state: str
    http_status: int | None = None
    error_code: str | None = None
    error_text: str | None = None
    first_token_at: datetime | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    result: bytes | None = None  # what the client was told, where it will be asked for again


def ended(call: Call, end: End, result: bytes | None) -> Ended:
    error = end.error
    text = None if error is None else error.kind.what.replace("{detail}", "").strip() or error.code
    return Ended(
        state=RequestState.DONE if end.kind == "done" else RequestState.FAILED,
        http_status=error.status if error is not None else end.status,
        error_code=error.code if error is not None else None,
        error_text=text,
        first_token_at=call.first_token_at,
        prompt_tokens=end.usage.prompt_tokens,
        completion_tokens=end.usage.completion_tokens,
        result=result,
    )
