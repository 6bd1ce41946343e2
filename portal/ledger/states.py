"""The lanes and states of requests, and the states of batches. Plain Python.

Separate from the tables, so that the data plane and pure code, which know no Django, compare the same words.
`portal.ledger.transitions` moves requests. Values are what the tables hold.
"""

from __future__ import annotations

from enum import StrEnum


class Lane(StrEnum):
    """Say who waits for a request, in the order in which a pool serves them."""

    HELD = "held"  # a client waits on a connection
    ASYNC = "async"  # nobody waits
    BATCH = "batch"  # a line of a batch


class RequestState(StrEnum):
    """Say where a request stands: queued → running → done | failed | cancelled | expired.

    Parked: over a limit that refills."""

    QUEUED = "queued"
    PARKED = "parked"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


REQUEST_ENDED = frozenset(
    {RequestState.DONE, RequestState.FAILED, RequestState.CANCELLED, RequestState.EXPIRED}
)


class BatchState(StrEnum):
    """Say where a batch stands: validating → in_progress → finalizing → completed | expired.

    Or validating → failed, or cancelling → cancelled."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
