"""How a try or a whole call ended → its end in the ledger, its slot free, its limits settled; or its old place in line.

The only place of the gateway that writes an end, whichever flow served the call: `serve` today. A call ends once:
whoever finds `progress.ended` set leaves it alone. What is awaited here may be broken off, and `give_up` then writes
the end from wherever the call had come to.
"""

from __future__ import annotations

import asyncio
import logging
from datetime import UTC, datetime

from portal.admission.keeper import Keeper
from portal.admission.slots import Slots
from portal.errors import ApiError
from portal.gateway.call import Call, Outcome, outcome_of
from portal.gateway.forward import End
from portal.gateway.limits import Limits
from portal.gateway.moves import Cancel, EndQueued
from portal.gateway.repeats import Repeats
from portal.gateway.writer import Writer
from portal.ledger.states import RequestState
from portal.ledger.transitions import Interrupted

log = logging.getLogger(__name__)

_PAUSE_S = 0.25
# Refusals for lack of room: the replica is fine, it has more to do than Redis knows of.
_NO_ROOM = frozenset({"full", "busy"})
# Refusals that no other replica would answer differently: something of ours is broken.
_OUR_FAULT = frozenset({"key", "path", "headers", "body"})


class Settlement:
    def __init__(
        self,
        gateway: str,
        slots: Slots,
        keeper: Keeper,
        writer: Writer,
        limits: Limits,
        repeats: Repeats,
        poison_after: int,
    ) -> None:
        self._gateway = gateway
        self._slots = slots
        self._keeper = keeper
        self._writer = writer
        self._limits = limits
        self._repeats = repeats
        self._poison_after = poison_after

    # A try is over

    def ends(self, call: Call, end: End) -> bool:
        """Write the end of a call whose try answered it, and return True; False where it may be tried again.

        Raises ApiError where it failed for good: with its end written where the engine said so, without where
        something of ours is broken.
        """
        if end.kind == "refused" and end.why in _OUR_FAULT:
            log.error("request %s: the ingress refused it for good: %s", call.request, end.why)
            raise ApiError("internal")
        if end.kind == "failed":
            assert end.error is not None
            told, used = None, end.usage.tokens
            if end.error.status < 500:
                # What the engine says of the request it says again; of itself, perhaps not. It has done nothing.
                told, used = end.error.body(call.request), 0
            self._write(call, outcome_of(call, end, told), used)
            raise end.error
        if end.kind == "done":
            self._write(call, outcome_of(call, end, b"".join(call.ex.kept or ())), end.usage.tokens)
        return end.kind == "done"

    async def step_back(self, call: Call, end: End) -> None:
        """Put a call whose try was refused or lost back in its old place, and give its slot back.

        Raises ApiError where it does not go back: it is poison, or its row is somebody else's by now.
        """
        progress = call.progress
        if progress.attempt:
            await self._interrupt(call, end)
        else:
            progress.crashes += end.crashed
            if progress.crashes >= self._poison_after:
                raise _poisoned(call)
        assert progress.route is not None
        route, progress.route = progress.route, None
        if end.why in _NO_ROOM:
            # The slot stays taken for a moment, or it would be granted again at once and refused again.
            await asyncio.sleep(_PAUSE_S)
        else:
            # A replica that cannot be reached leaves the routes until its next sync.
            self._slots.drop_route(call.pool, route.replica)
        self._keeper.release(call.place, over=False)

    async def _interrupt(self, call: Call, end: End) -> None:
        progress = call.progress
        why = f"{end.kind}: {end.why}"
        row = Interrupted(progress.id, progress.attempt, self._gateway, why, crashed=end.crashed)
        moved = await self._writer.interrupt(row)
        progress.attempt = 0
        progress.crashes += end.crashed
        if moved == RequestState.FAILED:
            self._close(call)
            raise _poisoned(call)
        if moved is None:
            raise await self.lost(call)

    # The call is over without an answer

    async def lost(self, call: Call) -> ApiError:
        """Return what to say where the row is not ours any more: its owner cancelled it, or we seemed to be gone."""
        self._close(call)
        found = await self._writer.look(call.progress.id)
        return ApiError("cancelled" if found is None or found[0] == RequestState.CANCELLED else "detached")

    def broken_off(self, call: Call) -> ApiError:
        """Return what to say where its client, its owner or the end of this server broke the call off."""
        progress = call.progress
        if progress.stopped:
            if progress.stopped == "cancelled" and progress.has_row:
                self._close(call)  # the API wrote its end
            return ApiError("cancelled")
        if not progress.has_row:
            return ApiError("shutting_down", retry_after_s=1)
        # Accepted is kept: the row stays queued under our name, and is detached once we are gone.
        if progress.attempt:
            why = "its gateway is stopping"
            self._writer.later(Interrupted(progress.id, progress.attempt, self._gateway, why))
        self._close(call)
        return ApiError("detached")

    def give_up(self, call: Call, error: ApiError) -> None:
        """Write the end of a call that did not get its answer, from wherever it had come to; nothing where one is
        written. A client that was told to come again keeps its place: the row stays queued."""
        progress = call.progress
        if progress.ended:
            return
        text = error.kind.what.replace("{detail}", "").strip() or error.code
        outcome = Outcome(RequestState.FAILED, error.status, error.code, text, call.first_token_at)
        if progress.stopped:
            code = "client_left" if progress.stopped == "left" else "cancelled"
            outcome = Outcome(RequestState.CANCELLED, None, code, None, call.first_token_at)
        if progress.attempt or (not progress.has_row and progress.route is not None):
            self._write(call, outcome, None)
            return
        self._close(call)
        if not progress.has_row:
            return
        if error.code == "model_starting" and not progress.stopped:
            self._repeats.leave_ticket(call)
        elif progress.stopped or error.code in ("database_unavailable", "internal"):
            # Where the row is by now is not known: this comes after whatever is still on its way.
            self._writer.later(Cancel(progress.id, outcome.error_code or "given up"))
        else:
            self._writer.later(EndQueued(progress.id, RequestState.FAILED, error.code, text))

    def _close(self, call: Call) -> None:
        """Free what the call holds here; its row, if it has one, ends or has ended elsewhere."""
        call.progress.ended = True
        self._keeper.forget(call.place)

    def _write(self, call: Call, outcome: Outcome, used: int | None) -> None:
        """Write the end. `used`: tokens, None where the engine did not say."""
        call.progress.ended = True
        now = datetime.now(UTC)
        if call.progress.has_row:
            self._writer.later(call.finished(self._gateway, outcome, now))
            self._keeper.forget(call.place)
            self._limits.leave(call, used)
        else:
            self._writer.record(call.recorded(self._gateway, outcome, now))
            self._limits.leave(call, used, self._keeper.let_go(call.place))


def _poisoned(call: Call) -> ApiError:
    return ApiError("poison", detail=f"It was tried {call.progress.crashes} times.")
