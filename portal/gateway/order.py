"""Where a new request stands in its pool's line: one Redis call, with PostgreSQL's help after a flush.

Separate from `slots`, which knows only commands, and from `serve`, which asks before it accepts.
"""

from __future__ import annotations

import functools

from portal.admission.slots import Slots
from portal.errors import ApiError
from portal.gateway.call import Call
from portal.gateway.writer import Writer
from portal.policy.estimate import tokens
from portal.policy.fairshare import PRIORITIES

_PRIORITIES = {str(level): level for level in PRIORITIES}
HEADER = b"x-berth-priority"


def priority(text: str, usual: int) -> int:
    """From the header; '' = the caller's usual one. Raises ApiError."""
    if not text:
        return usual
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
        """Reserves its place. Raises QueueDown, DatabaseDown."""
        share = tokens(call.asked.body) / call.caller.weight
        tag = functools.partial(
            self._slots.tag, call.place, lane, call.caller.project_id, share, call.priority
        )
        key = await tag()
        while key is None:
            key = await tag(await self._writer.line(call.id, call.pool, lane))
        return key
