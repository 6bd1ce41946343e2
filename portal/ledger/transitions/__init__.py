"""The only code that moves a request from one state to another.

Set-based SQL over a plain psycopg2 cursor: a list goes in, what really moved comes out. Every move names
the state, the attempt and the holder that it expects, so a caller that lost a race moves nothing and learns
it from the answer (invariant 3). The caller commits. No Django here: gateways and the worker API have none.

entry ─▶ queued ─ run ─▶ running ─ end ─▶ done | failed | cancelled | expired
   └──▶ parked ─ sweep ─▶ queued ◀─ run, sweep ─ running
"""

from portal.ledger.transitions.end import cancel, end_queued, erase_results, finish
from portal.ledger.transitions.entry import accept, record
from portal.ledger.transitions.run import claim, grant, interrupt, reattach
from portal.ledger.transitions.sweep import detach, fold_depth, heartbeat, release, unpark
from portal.ledger.transitions.values import (
    Cancelled,
    Claimed,
    Finish,
    Grant,
    Granted,
    Interrupted,
    NewRequest,
    Place,
    Recorded,
    Span,
)

__all__ = [
    "Cancelled", "Claimed", "Finish", "Grant", "Granted", "Interrupted", "NewRequest", "Place", "Recorded", "Span",
    "accept", "cancel", "claim", "detach", "end_queued", "erase_results", "finish", "fold_depth", "grant",
    "heartbeat", "interrupt", "reattach", "record", "release", "unpark",
]  # fmt: skip
