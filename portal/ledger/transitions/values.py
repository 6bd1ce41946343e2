"""What the transitions take and what they answer: values only, one class for each kind of move.

Separate because gateways and the worker API hold them long before a cursor comes into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from portal.ledger.states import RequestState


@dataclass(frozen=True, slots=True)
class NewRequest:
    """A request to accept: it enters its pool's queue."""

    id: UUID
    pool: str
    model: str
    project_id: int
    user_id: int
    token_id: int | None
    api: str
    stream: bool
    lane: str  # held | async
    order_key: float
    holder: str | None  # the gateway's id for the held lane, else None
    accepted_at: datetime
    body: bytes
    expires_at: datetime | None = None
    priority: int = 0
    crashes: int = 0  # an engine died under it before it was accepted, on the hot path
    state: str = RequestState.QUEUED  # | parked: over a limit that refills, where nobody waits
    content_type: str = "application/json"  # of the body
    engine_path: str = ""  # "": where the endpoint of `api` says


@dataclass(frozen=True, slots=True)
class Recorded:
    """A hot stream that never waited, written once, at its end."""

    id: UUID
    pool: str
    model: str
    project_id: int
    user_id: int
    token_id: int | None
    api: str
    stream: bool
    holder: str
    replica: UUID
    state: str  # done | failed | cancelled
    accepted_at: datetime
    granted_at: datetime
    first_token_at: datetime | None
    ended_at: datetime
    http_status: int | None
    error_code: str | None
    error_text: str | None
    prompt_tokens: int | None
    completion_tokens: int | None


@dataclass(frozen=True, slots=True)
class Grant:
    id: UUID
    holder: str
    replica: UUID


@dataclass(frozen=True, slots=True)
class Granted:
    """A grant that was made. Of the wait, so much was Slurm's and so much the model's load."""

    attempt: int
    slurm_s: float = 0.0
    load_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Interrupted:
    """A running request that could not end where it ran. Only an engine's death counts against it."""

    id: UUID
    attempt: int
    holder: str
    reason: str
    crashed: bool = False


@dataclass(frozen=True, slots=True)
class Finish:
    id: UUID
    attempt: int
    holder: str
    state: str  # done | failed | cancelled
    ended_at: datetime
    first_token_at: datetime | None = None
    http_status: int | None = None
    error_code: str | None = None
    error_text: str | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    result: bytes | None = None
    keep: bool = False  # also of a held request: it has an Idempotency-Key
    result_type: str = "application/json"


@dataclass(frozen=True, slots=True)
class Span:
    """The place in a file where a batch's line lies: nothing of it is copied into the ledger."""

    file: UUID
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Place:
    """The place in line of a queued request, and how it got there."""

    order_key: float
    accepted_at: datetime
    crashes: int


@dataclass(frozen=True, slots=True)
class Claimed:
    id: UUID
    attempt: int
    replica: UUID
    api: str
    alone: bool  # an engine died under it before: it runs alone
    body: bytes  # b"" where there is a span
    span: Span | None = None
    content_type: str = "application/json"
    engine_path: str = ""  # "": where the endpoint of `api` says


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A request that was cancelled, and what it was doing, so that whoever runs it can be told."""

    id: UUID
    was: str
    attempt: int
    holder: str | None
    pool: str
    replica: UUID | None
