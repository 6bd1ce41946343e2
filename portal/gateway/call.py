"""One request in the gateway's hands: what was asked, which stays as it is, and where it stands; and its rows.

Separate from the flows that move it: here it only turns into the values that the ledger's transitions take.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple
from uuid import UUID

from gpuworker.wire import JSON
from portal.acceptance.asked import Asked
from portal.accounts.callers import Caller
from portal.admission.place import Place
from portal.admission.slots import Route
from portal.gateway.forward import End
from portal.http.exchange import Exchange
from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import Finish, NewRequest, Recorded

Stop = Literal["left", "cancelled"]

_LONGEST_TYPE = 100  # characters, as the ledger keeps them


@dataclass(slots=True, eq=False)
class Progress:
    """The one part of a call that changes: where it stands."""

    id: UUID  # another one's than was sent, once its client has taken up that one's ticket
    accepted_at: datetime
    order_key: float = 0.0  # its place in line, once it has to wait
    crashes: int = 0  # engines that died under it
    has_row: bool = False  # its acceptance has been asked of the ledger
    attempt: int = 0  # > 0: its row is running, at this attempt
    route: Route | None = None  # where it runs; None while it waits
    granted_at: datetime | None = None
    stopped: Stop | Literal[""] = ""  # what broke it off
    ended: bool = False  # its end has been written, or is somebody else's to write


class Call(NamedTuple):
    """A request: what was asked, by whom, and how its answer is wanted.

    A tuple, because every request makes one, and a frozen dataclass of as many fields takes four times as long.
    """

    ex: Exchange
    asked: Asked
    caller: Caller
    pool: str
    priority: int  # among what its project has waiting
    key: str  # its Idempotency-Key: it always gets a row, and its answer is kept; "" = none
    later: bool  # its client does not wait for the answer
    since: float  # monotonic, when it came
    progress: Progress

    @property
    def request(self) -> str:
        """Return the request's id as text, as Redis and ingresses know it."""
        return self.ex.request_id

    @property
    def place(self) -> Place:
        """Return what it asks of its pool's replicas now."""
        return Place(self.pool, self.request, alone=self.progress.crashes > 0)

    @property
    def first_token_at(self) -> datetime | None:
        at = self.ex.content_at
        return None if at is None else datetime.fromtimestamp(at, UTC)

    def to_accept(self, gateway: str | None, state: RequestState = RequestState.QUEUED) -> NewRequest:
        """Return the row to accept. `gateway`: that holds its connection; None = nobody waits for it."""
        progress = self.progress
        return NewRequest(
            id=progress.id,
            pool=self.pool,
            model=self.asked.model,
            project_id=self.caller.project_id,
            user_id=self.caller.user_id,
            token_id=self.caller.token_id,
            api=self.asked.api,
            stream=self.asked.stream and gateway is not None,
            lane=Lane.ASYNC if gateway is None else Lane.HELD,
            priority=self.priority,
            order_key=progress.order_key,
            holder=gateway,
            accepted_at=progress.accepted_at,
            body=self.asked.body,
            crashes=progress.crashes,
            state=state,
            content_type=self.asked.content_type,
            engine_path=self.asked.engine_path,
        )

    def recorded(self, gateway: str, outcome: Outcome, now: datetime) -> Recorded:
        """Return the row of a call that ran at once and ended now."""
        progress = self.progress
        assert progress.route is not None and progress.granted_at is not None
        return Recorded(
            id=progress.id,
            pool=self.pool,
            model=self.asked.model,
            project_id=self.caller.project_id,
            user_id=self.caller.user_id,
            token_id=self.caller.token_id,
            api=self.asked.api,
            stream=self.asked.stream,
            holder=gateway,
            replica=UUID(progress.route.replica),
            state=outcome.state,
            accepted_at=progress.accepted_at,
            granted_at=progress.granted_at,
            first_token_at=outcome.first_token_at,
            ended_at=now,
            http_status=outcome.http_status,
            error_code=outcome.error_code,
            error_text=outcome.error_text,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
        )

    def finished(self, gateway: str, outcome: Outcome, now: datetime) -> Finish:
        """Return the end, now, of a call that has a row."""
        return Finish(
            id=self.progress.id,
            attempt=self.progress.attempt,
            holder=gateway,
            state=outcome.state,
            ended_at=now,
            first_token_at=outcome.first_token_at,
            http_status=outcome.http_status,
            error_code=outcome.error_code,
            error_text=outcome.error_text,
            prompt_tokens=outcome.prompt_tokens,
            completion_tokens=outcome.completion_tokens,
            result=outcome.result if self.key else None,
            keep=bool(self.key),
            result_type=outcome.result_type,
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """The end of a request in the ledger's terms. Engines' own words may quote the prompt: they stay out."""

    state: str
    http_status: int | None = None
    error_code: str | None = None
    error_text: str | None = None
    first_token_at: datetime | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    result: bytes | None = None  # what the client was told, where it will be asked for again
    result_type: str = JSON


def outcome_of(call: Call, end: End, result: bytes | None) -> Outcome:
    """Return what the end of its last try makes of the call."""
    error = end.error
    text = None if error is None else error.kind.what.replace("{detail}", "").strip() or error.code
    return Outcome(
        state=RequestState.DONE if end.kind == "done" else RequestState.FAILED,
        http_status=error.status if error is not None else end.status,
        error_code=error.code if error is not None else None,
        error_text=text,
        first_token_at=call.first_token_at,
        prompt_tokens=end.usage.prompt_tokens,
        completion_tokens=end.usage.completion_tokens,
        result=result,
        result_type=end.content_type[:_LONGEST_TYPE] or JSON,
    )
