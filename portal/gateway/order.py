"""Where a new request stands in its pool's line: one Redis call, with PostgreSQL's help after a flush.

Separate from `slots`, which knows only commands, and from `serve`, which asks before it accepts.
"""

from __future__ import annotations

import functools

from portal.acceptance.rule import share
from portal.admission.pipe import QueueDown
from portal.admission.slots import Slots
from portal.errors import ApiError
from portal.gateway.call import Call
from portal.gateway.writer import Writer
from portal.ledger.states import Lane
from portal.policy import fairshare
from portal.policy.fairshare import PRIORITIES

_PRIORITIES = {str(level): level for level in PRIORITIES}
HEADER = b"x-berth-priority"


def priority(text: str) -> int | None:
    """Return the priority that the header names; None where it is not there. Raises ApiError."""
    if not text:
        return None
    if text not in _PRIORITIES:
        raise ApiError(
            "invalid_parameter", detail=f"'{HEADER.decode()}' is one of -1, 0, 1.", param=HEADER.decode()
        )
    return _PRIORITIES[text]


class Order:
    def __init__(self, slots: Slots, writer: Writer) -> None:
        self._slots = slots
        self._writer = writer

    async def key(self, call: Call, lane: str) -> float:
        """Reserve its place. While Redis is away a request that nobody waits for gets it from the ledger. Raises
        QueueDown (of a held one), DatabaseDown."""
        cost = share(call.asked.estimated_tokens(), call.caller.weight)
        try:
            return await self._reserve(call, lane, cost)
        except QueueDown:
            if lane == Lane.HELD:
                raise
            line = await self._writer.line(call.progress.id, call.pool, lane)
            key, _ = fairshare.tag(line, call.caller.project_id, cost, call.priority)
            return key

    async def _reserve(self, call: Call, lane: str, cost: float) -> float:
        tag = functools.partial(
            self._slots.tag, call.place, lane, call.caller.project_id, cost, call.priority
        )
        key = await tag()
        while key is None:
            key = await tag(await self._writer.line(call.progress.id, call.pool, lane))
        return key
