"""The one grant flow (DESIGN §3) for a request on a connection: admit → forward, or accept → wait → grant → forward.

1. Nobody waits and a hot replica has room: it runs at once and is recorded at its end.
2. Else it is accepted: a row, then a place in line, then a grant, then a try at a replica.
3. A try that was refused or lost before the client saw a byte goes back in line, with its old place.
4. Whoever was told to come again keeps its place: the row stays queued (`again`).
5. However it ends, it ends once: `_settle` is the only place that writes an end.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from uuid import UUID

from portal.admission.keeper import Keeper
from portal.admission.patience import patiently
from portal.admission.pipe import QueueDown
from portal.admission.slots import Route, Slots
from portal.errors import ApiError
from portal.gateway import waited
from portal.gateway.call import Call, Ended, ended
from portal.gateway.forward import End, Forward
from portal.gateway.hold import Hold
from portal.gateway.limits import Limits
from portal.gateway.moves import Cancel, EndQueued
from portal.gateway.order import Order
from portal.gateway.writer import DatabaseDown, Writer
from portal.ledger.states import Lane, RequestState
from portal.ledger.transitions import Grant, Granted, Interrupted

log = logging.getLogger(__name__)
# How long a slot of a full replica stays taken, so that it is not granted again at once and refused again.
_FULL_S = 0.25
# Refusals for lack of room: the replica is fine, it has more to do than Redis knows of.
_NO_ROOM = frozenset({"full", "busy"})
# Refusals that no other replica would answer differently: something of ours is broken.
_OUR_FAULT = frozenset({"key", "path", "headers", "body"})


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
        poison_after: int,
        leave: Callable[[Call], None],
        limits: Limits,
    ) -> None:
        self._gateway = gateway
        self._slots = slots
        self._keeper = keeper
        self._writer = writer
        self._order = Order(slots, writer)
        self._hold = hold
        self._forward = forward
        self._waits = waits
        self._poison_after = poison_after
        self._leave = leave
        self._limits = limits
        self._live: dict[str, Call] = {}

    def cancel(self, request: str) -> None:
        """The owner cancelled it through the API; its row says so already."""
        if call := self._live.get(request):
            call.stop("cancelled")

    async def run(self, call: Call) -> None:
        """Answers the client, whatever happens."""
        self._live[call.request] = call
        call.ex.watch_soon(lambda: call.stop("left"))
        error: ApiError | None = None
        try:
            await self._go(call)
        except ApiError as ended_with:
            error = ended_with
        except DatabaseDown:
            error = ApiError("database_unavailable", retry_after_s=10)
        except QueueDown:
            error = ApiError("queue_unavailable", retry_after_s=10)
        except asyncio.CancelledError:
            error = self._stopped(call)
        finally:
            call.ex.unwatch()
            self._live.pop(call.request, None)
            if not call.settled:
                self._settle(call, error or ApiError("internal"))
        if error is not None and call.stopped != "left":
            await call.ex.fail(error)

    async def _go(self, call: Call) -> None:
        if not call.has_row:
            if not call.key and await self._at_once(call):
                return
            await self._limits.waits(call)
            call.order_key = await patiently(lambda: self._order.key(call, Lane.HELD))
            call.has_row = True
            await self._writer.accept(call.to_accept(self._gateway))
        while not await self._attempt(call):
            pass

    async def _at_once(self, call: Call) -> bool:
        """One try without standing in line, if nobody does and there is room. True when the request has ended."""
        route = call.offer
        if not call.offered:
            route = await patiently(lambda: self._slots.admit(call.place))
        if route is None:
            return False
        self._running(call, route, None)
        end = await self._forward.run(call.ex, call.asked, route, 0, alone=False)
        if self._over(call, end):
            return True
        call.crashes += end.crashed
        if call.crashes >= self._poison_after:
            raise _poisoned(call)
        await self._step_back(call, end)
        return False

    async def _attempt(self, call: Call) -> bool:
        """In line → granted → one try. True when the request has ended."""
        waiter = await patiently(lambda: self._keeper.wait(call.place, call.order_key))
        if not waiter.granted.done():
            self._waits(call.pool)
        route = await self._hold.wait(call.ex, call.asked, waiter, call.since)
        self._limits.runs(call)
        granted = await self._writer.grant(Grant(call.id, self._gateway, UUID(route.replica)))
        if granted is None:
            raise await self._taken(call)
        attempt = call.attempt = granted.attempt
        self._running(call, route, granted)
        if call.ex.streaming:  # the headers are out
            await call.ex.comment(waited.event(call.ex.extra))
        end = await self._forward.run(call.ex, call.asked, route, attempt, alone=call.crashes > 0)
        if self._over(call, end):
            return True
        why = f"{end.kind}: {end.why}"
        row = Interrupted(call.id, attempt, self._gateway, why, crashed=end.crashed)
        moved = await self._writer.interrupt(row)
        call.attempt = 0
        call.crashes += end.crashed
        if moved == RequestState.FAILED:
            call.settled = True
            self._keeper.forget(call.place)
            raise _poisoned(call)
        if moved is None:
            raise await self._taken(call)
        await self._step_back(call, end)
        return False

    def _running(self, call: Call, route: Route, granted: Granted | None) -> None:
        """`granted`: from the line; None = at once."""
        call.route, call.granted_at = route, datetime.now(UTC)
        waited_ms = max(0.0, 1000 * (call.granted_at - call.accepted_at).total_seconds())
        if granted is not None:
            call.ex.extra = waited.in_line(call.ex.extra, waited_ms, granted)
        else:
            call.ex.extra = waited.at_once(call.ex.extra, waited_ms)
            self._keeper.hold(call.place, route, admitted=True)

    def _over(self, call: Call, end: End) -> bool:
        """Whether this try was the last: answered, or failed for good."""
        if end.kind == "refused" and end.why in _OUR_FAULT:
            log.error("request %s: the ingress refused it for good: %s", call.request, end.why)
            raise ApiError("internal")
        if end.kind == "failed":
            assert end.error is not None
            said = None
            if end.error.status < 500:
                # What the engine says of the request it says again; of itself, perhaps not. It has done nothing.
                said, call.used = end.error.body(call.request), 0
            self._write_end(call, ended(call, end, said))
            raise end.error
        if end.kind == "done":
            self._write_end(call, ended(call, end, b"".join(call.ex.kept or ())))
        return end.kind == "done"

    async def _step_back(self, call: Call, end: End) -> None:
        """Gives the slot back. A replica that cannot be reached leaves the routes until its next sync; one that
        is full keeps the slot taken for a moment, or it would be granted again at once and refused again."""
        assert call.route is not None
        route, call.route = call.route, None
        if end.why in _NO_ROOM:
            await asyncio.sleep(_FULL_S)
        else:
            self._slots.drop_route(call.pool, route.replica)
        self._keeper.release(call.place, over=False)

    async def _taken(self, call: Call) -> ApiError:
        """The row is not ours any more: cancelled by its owner, or detached because we seemed to be gone."""
        call.settled = True
        self._keeper.forget(call.place)
        found = await self._writer.look(call.id)
        return ApiError("cancelled" if found is None or found[0] == RequestState.CANCELLED else "detached")

    def _stopped(self, call: Call) -> ApiError:
        """What to say after the request was broken off: by its client, its owner, or the end of this server."""
        if call.task is not None:
            call.task.uncancel()
        if call.stopped:
            if call.stopped == "cancelled" and call.has_row:
                call.settled = True  # the API wrote its end
                self._keeper.forget(call.place)
            return ApiError("cancelled")
        if not call.has_row:
            return ApiError("shutting_down", retry_after_s=1)
        # Accepted is kept: the row stays queued under our name, and is detached once we are gone.
        if call.attempt:
            self._writer.later(Interrupted(call.id, call.attempt, self._gateway, "its gateway is stopping"))
        call.settled = True
        self._keeper.forget(call.place)
        return ApiError("detached")

    def _settle(self, call: Call, error: ApiError) -> None:
        """Writes the end of a request that did not get its answer, from wherever it had come to."""
        text = error.kind.what.replace("{detail}", "").strip() or error.code
        first = call.first_token_at
        end = Ended("failed", error.status, error.code, text, first)
        if call.stopped:
            code = "client_left" if call.stopped == "left" else "cancelled"
            end = Ended("cancelled", None, code, None, first)
        if call.attempt or (not call.has_row and call.route is not None):
            self._write_end(call, end)
            return
        call.settled = True
        self._keeper.forget(call.place)
        if not call.has_row:
            return
        if error.code == "model_starting" and not call.stopped:
            self._leave(call)
        elif call.stopped or error.code in ("database_unavailable", "internal"):
            # Where the row is by now is not known: this comes after whatever is still on its way.
            self._writer.later(Cancel(call.id, end.error_code or "given up"))
        else:
            self._writer.later(EndQueued(call.id, RequestState.FAILED, error.code, text))

    def _write_end(self, call: Call, end: Ended) -> None:
        call.settled = True
        if end.prompt_tokens is not None:
            call.used = end.prompt_tokens + (end.completion_tokens or 0)
        if call.has_row:
            self._writer.later(call.finished(self._gateway, end))
            self._keeper.forget(call.place)
        else:
            self._writer.record(call.recorded(self._gateway, end))
            self._limits.leave(call, self._keeper.let_go(call.place))


def _poisoned(call: Call) -> ApiError:
    return ApiError("poison", detail=f"It was tried {call.crashes} times.")
