"""A request whose client does not wait → a row that pilots pull, and an answer at once that says where to ask.

`Prefer: respond-async` on any inference path, and `background: true` of /v1/responses, which is the same in that
API's own words. Whether it is accepted is portal.acceptance's rule. Separate from `serve`, which holds connections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial

import psycopg2

from portal.acceptance.rule import Facts, verdict
from portal.acceptance.submission import crowds, enter
from portal.admission.slots import Slots
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.call import Call
from portal.gateway.limits import Limits
from portal.gateway.moves import Cancel
from portal.gateway.openai.responses import pending
from portal.gateway.order import Order
from portal.gateway.writer import DatabaseDown, Writer
from portal.http.exchange import Headers
from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import NewRequest
from portal.policy.limits import Want, wants
from portal.redis import keys

log = logging.getLogger(__name__)

# Pilots are told of the first row at once, and of all that follow within this time together.
TELL_S = 0.02


class Background:
    """The way in of requests for later. `database`: of its own, because whoever comes under a limit of waiting
    requests waits for those before it."""

    def __init__(
        self,
        slots: Slots,
        writer: Writer,
        limits: Limits,
        database: Database,
        waits: Callable[[str], None],
    ) -> None:
        self._slots = slots
        self._writer = writer
        self._limits = limits
        self._database = database
        self._order = Order(slots, writer)
        self._waits = waits
        self._told: dict[str, bool] = {}  # pool → whether more came since

    async def accept(self, call: Call, facts: Facts) -> None:
        """Answer once its row is committed. `facts`: what is known so far. Raises ApiError."""
        try:
            state = await self._enter(call, facts)
        except (DatabaseDown, psycopg2.OperationalError, psycopg2.InterfaceError):
            raise ApiError("database_unavailable", retry_after_s=10) from None
        if state == RequestState.QUEUED:
            # What is parked is not demand (invariant 11): the control loop lets it go on.
            self._waits(call.pool)
            self._tell(call.pool)
        return await told(call, state)

    async def _enter(self, call: Call, facts: Facts) -> RequestState:
        """Gather the rule's facts, nothing being taken for a request that it refuses, and write the row. Returns its
        state. Raises ApiError, DatabaseDown, psycopg2.Error."""
        waits = wants(self._limits.concerning(call), ("queued",), 0)
        if waits:
            facts = facts._replace(crowds=await self._database.run(partial(crowds, waits=waits)))
        verdict(facts).accepted()
        facts = facts._replace(rates=await self._limits.take_rates(call))
        state = verdict(facts).accepted()
        call.progress.order_key = await self._order.key(call, Lane.ASYNC)
        await self._write(call, state, facts, waits)
        return state

    async def _write(self, call: Call, state: RequestState, facts: Facts, waits: Sequence[Want]) -> None:
        row = call.to_accept(None, state)
        try:
            if waits:
                await self._write_counted(row, facts, waits)
            else:
                await self._writer.accept(row)
        except ApiError:
            if facts.rates == "allow":  # else nothing was taken
                self._limits.give_rates_back(call)
            raise
        except BaseException:
            # The client hears of an error, or nothing: whatever became of the row must not be run for nobody.
            self._writer.later(Cancel(row.id, "not accepted"))
            raise
        # From here on it is the pilots' to end.
        call.progress.has_row = call.progress.ended = True

    async def _write_counted(self, row: NewRequest, facts: Facts, waits: Sequence[Want]) -> None:
        """Write the row once those that wait have been counted again, under the lock of their limits."""
        writing = asyncio.ensure_future(self._database.run(partial(enter, row=row, facts=facts, waits=waits)))
        try:
            await asyncio.shield(writing)
        except asyncio.CancelledError:
            # The thread goes on: what it still commits is taken back after that.
            writing.add_done_callback(lambda _: self._writer.later(Cancel(row.id, "not accepted")))
            raise

    def _tell(self, pool: str) -> None:
        """Wake pilots that wait for rows of this pool. Nobody waits for it: they also look by themselves."""
        if pool in self._told:
            self._told[pool] = True
            return
        self._told[pool] = False
        self._slots.hint(keys.ROWS.of(pool), "look")
        asyncio.get_running_loop().call_later(TELL_S, self._tell_of_more, pool)

    def _tell_of_more(self, pool: str) -> None:
        if self._told.pop(pool):
            self._tell(pool)


async def told(call: Call, state: str) -> None:
    """Answer that what is asked for later has been taken up, now or when it was asked before."""
    if call.asked.background:
        said = pending(call.ex.request_id, call.asked.model, call.progress.accepted_at, state)
        await call.ex.answer_json(200, said)
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
    await call.ex.answer_json(202, said, headers)
