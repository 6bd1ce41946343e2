"""What the moves of batches and files take and answer: values only.

Separate because the gateway and the tasks hold them before a cursor comes into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class NewFile:
    """A file whose content is on disk."""

    id: UUID
    project_id: int
    user_id: int
    purpose: str  # batch | batch_output
    name: str
    bytes: int
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewBatch:
    id: UUID
    project_id: int
    user_id: int
    token_id: int | None
    endpoint: str
    completion_window: str
    metadata: dict[str, str]
    input_file: UUID
    created_at: datetime
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class NewLine:
    """One good line of a batch's file; `number` counts from 1."""

    number: int
    offset: int
    length: int
    custom_id: str
    pool: str
    model: str
    order_key: float


@dataclass(frozen=True, slots=True)
class End:
    """A line that has ended and is not in a file yet."""

    request: UUID
    custom_id: str
    state: str  # done | failed | cancelled | expired
    http_status: int | None
    error_code: str | None
    error_text: str | None
    result: bytes | None


@dataclass(frozen=True, slots=True)
class Written:
    """A step of writing: lines by how they ended, and the files' lengths after it."""

    ends: dict[str, int]
    output_bytes: int
    error_bytes: int
