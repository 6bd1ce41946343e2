"""The one grant flow (DESIGN §3) for a request on a connection: admit → forward, or accept → wait → grant → forward.

1. Nobody waits and a hot replica has room: it runs at once and is recorded at its end.
2. Else it is accepted: a row, then a place in line, then a grant, then a try at a replica.
3. A try that was refused or lost before the client saw a byte goes back in line, with its old place.
4. Whoever was told to come again keeps its place: the row stays queued (`repeats`).
5. However it ends, it ends once: `settlement` is the only place that writes an end.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from portal.admission.keeper import Keeper
from portal.admission.patience import patiently
from portal.admission.pipe import QueueDown
from portal.admission.slots import Route, Slots
from portal.errors import ApiError
from portal.gateway import wait_headers
from portal.gateway.call import Call
from portal.gateway.forward import Forward
from portal.gateway.hold import Hold
from portal.gateway.limits import Entry, Limits
from portal.gateway.live_calls import LiveCalls
from portal.gateway.order import Order
from portal.gateway.settlement import Settlement
from portal.gateway.writer import DatabaseDown, Writer
from portal.ledger.states import Lane
from portal.ledger.transitions import Grant, Granted


class Serve:
    def __init__(
        self,
        gateway: str,
        slots: Slots,
        keeper: Keeper,
        writer: Writer,
        hold: Hold,
        forward: Forward,
        waits: Callable[[str], None],
        limits: Limits,
        live: LiveCalls,
        settlement: Settlement,
    ) -> None:
        self._gateway = gateway
        self._slots = slots
        self._keeper = keeper
        self._writer = writer
        self._order = Order(slots, writer)
        self._hold = hold
        self._forward = forward
        self._waits = waits
        self._limits = limits
        self._live = live
        self._settlement = settlement

    async def run(self, call: Call, entry: Entry) -> None:
        """Answer the client, whatever happens."""
        self._live.enter(call)
        error: ApiError | None = None
        try:
            await self._go(call, entry)
        except ApiError as ended_with:
            error = ended_with
        except DatabaseDown:
            error = ApiError("database_unavailable", retry_after_s=10)
        except QueueDown:
            error = ApiError("queue_unavailable", retry_after_s=10)
        except asyncio.CancelledError:
            if (task := asyncio.current_task()) is not None:
                task.uncancel()
            error = self._settlement.broken_off(call)
        finally:
            self._live.leave(call)
            if not call.progress.ended:
                self._settlement.give_up(call, error or ApiError("internal"))  # 4. and 5.
        if error is not None and call.progress.stopped != "left":
            await call.ex.fail(error)

    async def _go(self, call: Call, entry: Entry) -> None:
        progress = call.progress
        if not progress.has_row:
            if not call.key and await self._at_once(call, entry):  # 1.
                return
            await self._limits.waits(call)  # 2.
            progress.order_key = await patiently(lambda: self._order.key(call, Lane.HELD))
            progress.has_row = True
            await self._writer.accept(call.to_accept(self._gateway))
        while not await self._try_in_line(call):  # 3.
            pass

    async def _at_once(self, call: Call, entry: Entry) -> bool:
        """Try once without standing in line, if nobody does and there is room. True when the call has ended."""
        route = entry.route
        if not entry.asked_for_slot:
            route = await patiently(lambda: self._slots.admit(call.place))
        if route is None:
            return False
        self._running(call, route, None)
        self._keeper.hold(call.place, route, admitted=True)
        return await self._tried(call, route, alone=False)

    async def _try_in_line(self, call: Call) -> bool:
        """Wait in line for a grant, then try once. True when the call has ended."""
        progress = call.progress
        place = call.place
        waiter = await patiently(lambda: self._keeper.wait(place, progress.order_key))
        if not waiter.granted.done():
            self._waits(call.pool)
        route = await self._hold.wait(call.ex, call.asked, waiter, call.since)
        self._limits.runs(call)
        granted = await self._writer.grant(Grant(progress.id, self._gateway, UUID(route.replica)))
        if granted is None:
            raise await self._settlement.lost(call)
        progress.attempt = granted.attempt
        self._running(call, route, granted)
        if call.ex.streaming:  # the headers are out
            await call.ex.comment(wait_headers.event(call.ex.extra))
        return await self._tried(call, route, alone=place.alone)

    async def _tried(self, call: Call, route: Route, *, alone: bool) -> bool:
        """Run it at the replica. True when the call has ended, False when it is back in its old place."""
        end = await self._forward.run(call.ex, call.asked, route, call.progress.attempt, alone=alone)
        if self._settlement.ends(call, end):  # 5.
            return True
        await self._settlement.step_back(call, end)  # 3.
        return False

    def _running(self, call: Call, route: Route, granted: Granted | None) -> None:
        """Note where it runs, and say how long it waited. `granted`: from the line; None = at once."""
        progress = call.progress
        progress.route, progress.granted_at = route, datetime.now(UTC)
        waited_ms = max(0.0, 1000 * (progress.granted_at - progress.accepted_at).total_seconds())
        if granted is not None:
            call.ex.extra = wait_headers.in_line(call.ex.extra, waited_ms, granted)
        else:
            call.ex.extra = wait_headers.at_once(call.ex.extra, waited_ms)
