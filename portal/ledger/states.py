"""The lanes and states of requests, and the states of batches. Plain Python.

Separate from the tables, so that the data plane and pure code, which know no Django, compare the same words.
`portal.ledger.transitions` moves requests. Values are what the tables hold.
"""

from __future__ import annotations

from enum import StrEnum


class Lane(StrEnum):
    """A lane: who waits for a request, in the order in which a pool serves them."""

    HELD = "held"  # a client waits on a connection
    ASYNC = "async"  # nobody waits
    BATCH = "batch"  # a line of a batch


class RequestState(StrEnum):
    """A state of a request: queued → running → done | failed | cancelled | expired; parked: over a limit that refills."""

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
    """A state of a batch: validating → in_progress → finalizing → completed | expired, or failed, or cancelling →
    cancelled."""

    VALIDATING = "validating"
    FAILED = "failed"
    IN_PROGRESS = "in_progress"
    FINALIZING = "finalizing"
    COMPLETED = "completed"
    EXPIRED = "expired"
    CANCELLING = "cancelling"
    CANCELLED = "cancelled"
