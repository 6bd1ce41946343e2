"""The ledger: every request, its payload, and who holds it. Schema, admin and reads only.

States are moved by `portal.ledger.transitions` and by nothing else. The constraints here tie each state to
the facts it implies, so that a wrong move fails in the database rather than being found by a person.
Owners are plain numbers without foreign keys: the hot path writes these rows and must not lock a project
for each request; retention, not cascades, removes them.
"""

from portal.ledger.models.batches import Batch, BatchEnd, BatchState, File
from portal.ledger.models.repeats import IdempotencyKey, Ticket
from portal.ledger.models.requests import (
    ENDED,
    Depth,
    Holder,
    Lane,
    Payload,
    Request,
    RequestEvent,
    RequestState,
)
from portal.ledger.models.usage import Usage, UsageDelta, UsageTotal

__all__ = [
    "ENDED", "Batch", "BatchEnd", "BatchState", "Depth", "File", "Holder", "IdempotencyKey", "Lane", "Payload",
    "Request", "RequestEvent", "RequestState", "Ticket", "Usage", "UsageDelta", "UsageTotal",
]  # fmt: skip
