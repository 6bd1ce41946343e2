"""The ledger: every request, its payload, and who holds it. Schema, admin and reads only.

States stand in `portal.ledger.states` and are moved by `portal.ledger.transitions` alone. The constraints here tie
each state to the facts it implies, so that a wrong move fails in the database rather than being found by a person.
Owners are plain numbers without foreign keys: the hot path writes these rows and must not lock a project
for each request; retention, not cascades, removes them.
"""

from portal.ledger.models.batches import Batch, BatchEnd, File
from portal.ledger.models.repeats import IdempotencyKey, Ticket
from portal.ledger.models.requests import Depth, Holder, Payload, Request, RequestEvent
from portal.ledger.models.usage import Usage, UsageDelta, UsageTotal

__all__ = [
    "Batch", "BatchEnd", "Depth", "File", "Holder", "IdempotencyKey", "Payload", "Request", "RequestEvent",
    "Ticket", "Usage", "UsageDelta", "UsageTotal",
]  # fmt: skip
