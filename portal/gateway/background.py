"""A request whose client does not wait → a row that pilots pull, and an answer at once that says where to ask.

`Prefer: respond-async` on any inference path, and `background: true` of /v1/responses, which is the same in that
API's own words. Separate from `serve`, which holds connections.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable

from portal.admission.pipe import QueueDown
from portal.admission.slots import Slots
from portal.errors import ApiError
from portal.gateway.call import Call
from portal.gateway.moves import Cancel
from portal.gateway.openai.responses import pending
from portal.gateway.order import Order
from portal.gateway.writer import DatabaseDown, Writer
from portal.http.exchange import Headers
from portal.ledger.states import Lane, RequestState
from portal.redis import keys

log = logging.getLogger(__name__)

# Pilots are told of the first row at once, and of all that follow within this time together.
TELL_S = 0.02


class Background:
    def __init__(
        self,
        slots: Slots,
        writer: Writer,
        waits: Callable[[str], None],
    ) -> None:
        self._slots = slots
        self._writer = writer
        self._order = Order(slots, writer)
        self._waits = waits
        self._told: dict[str, bool] = {}  # pool → whether more came since

    async def accept(self, call: Call) -> None:
        """Answers once its row is committed. Raises ApiError."""
        try:
            call.order_key = await self._order.key(call, Lane.ASYNC)
            await self._accept(call)
        except QueueDown:
            raise ApiError("queue_unavailable", retry_after_s=10) from None
        except DatabaseDown:
            raise ApiError("database_unavailable", retry_after_s=10) from None
        if (
            call.parked
        ):  # not demand (invariant 11); the control loop lets it go on when the limit has refilled
            return await told(call, "parked")
        self._waits(call.pool)
        self._tell(call.pool)
        return await told(call, RequestState.QUEUED)

    def _tell(self, pool: str) -> None:
        """Pilots that wait for rows of this pool. Nobody waits for it: they also look by themselves."""
        if pool in self._told:
            self._told[pool] = True
            return
        self._told[pool] = False
        self._slots.hint(keys.ROWS.of(pool), "look")
        asyncio.get_running_loop().call_later(TELL_S, self._tell_of_more, pool)

    def _tell_of_more(self, pool: str) -> None:
        if self._told.pop(pool):
            self._tell(pool)

    async def _accept(self, call: Call) -> None:
        try:
            await self._writer.accept(call.to_accept(None))
        except BaseException:
            # The client hears of an error, or nothing: whatever became of the row must not be run for nobody.
            self._writer.later(Cancel(call.id, "not accepted"))
            raise
        call.has_row = call.settled = True


async def told(call: Call, state: str) -> None:
    """What is asked for later has been taken up, now or when it was asked before."""
    if call.asked.background:
        said = pending(call.ex.request_id, call.asked.model, call.accepted_at, state)
        await call.ex.answer(200, json.dumps(said).encode())
        return
    place = f"/api/v1/requests/{call.ex.request_id}"
    headers: Headers = [(b"location", place.encode()), (b"preference-applied", b"respond-async")]
    said = {
        "id": call.ex.request_id,
        "state": state,
        "lane": Lane.ASYNC,
        "model": call.asked.model,
        "api": call.asked.api,
        "location": place,
    }
    await call.ex.answer(202, json.dumps(said).encode(), headers)
