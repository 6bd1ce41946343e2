"""A request that was sent before → the one that it was then: its place in line, or its answer.

1. With an Idempotency-Key: the first request with the key answers for it for 24 h. Asked again, a client gets its
   place back, waits for its end, or is told its answer; only one that came to no answer is done anew.
2. Without one: a client that was told "model_starting" left a ticket, and the same token with the same body gets
   its place back. While it is away it stands in no line in Redis, so nobody grants it anything; its row stays
   queued, which keeps the demand for the model alive.

Separate from `serve`, which moves one request and need not know that there are others. Costs the usual request
nothing: PostgreSQL is asked only for keys, for retries, and for tokens that have tickets.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from portal.config import Config
from portal.errors import ApiError
from portal.gateway.call import Call
from portal.gateway.directory import REFRESH_S, Directory
from portal.gateway.replay import Replay
from portal.gateway.writer import DatabaseDown, Writer
from portal.ledger.repeats import Away, ClaimTicket, PutBack, Remember, Remembered, Ticketed, Unremember

T = TypeVar("T")

_LONGEST_KEY = 255
# Longer than a ticket of ours takes into the directory's snapshot.
_OWN_S = 5 * REFRESH_S


class Again:
    def __init__(
        self, gateway: str, directory: Directory, writer: Writer, replay: Replay, config: Config
    ) -> None:
        self._gateway = gateway
        self._directory = directory
        self._writer = writer
        self._replay = replay
        self._ticket_s = config.ticket_s
        self._keep_s = config.idempotency_s
        self._own: dict[int, float] = {}  # token → monotonic time until which it is taken to have tickets

    async def begin(self, call: Call) -> bool:
        """Makes the call the request that its client means. False: it has been answered. Raises ApiError."""
        key = call.ex.header(b"idempotency-key")
        if len(key) > _LONGEST_KEY:
            said = f"The Idempotency-Key is longer than {_LONGEST_KEY} characters."
            raise ApiError("invalid_parameter", detail=said, param="Idempotency-Key")
        try:
            if key:
                call.key, call.digest = key, _digest(call)
                return await self._with_key(call)
            if self._may_have_ticket(call):
                call.digest = _digest(call)
                return await self._with_ticket(call)
        except DatabaseDown:
            raise ApiError("database_unavailable", retry_after_s=10) from None
        return True

    def leave(self, call: Call) -> None:
        """Its client is told to come again: the row keeps its place."""
        call.digest = call.digest or _digest(call)
        until = datetime.now(UTC) + timedelta(seconds=self._ticket_s)
        self._writer.later(Away(call.id, self._gateway, call.caller.token_id, _ticket(call), until))
        self._own[call.caller.token_id] = time.monotonic() + _OWN_S

    def end(self, call: Call) -> None:
        """It is over here. One that was refused before it was served leaves things as they were."""
        if call.claim is not None and not call.settled:
            self._writer.later(PutBack(call.claim))
        elif call.key and not call.has_row:
            self._writer.later(Unremember(call.id))

    async def _with_key(self, call: Call) -> bool:
        said = await self._remember(call)
        while said.request != call.id:
            if said.digest != call.digest:
                raise ApiError("idempotency_conflict", param="Idempotency-Key")
            if not await self._with_ticket(call):
                return False
            if call.has_row:
                return True
            if await self._replay.follow(call, said.request):
                return False
            said = await self._remember(call, said)
        if not call.later:
            call.ex.kept = []
        return True

    async def _remember(self, call: Call, instead_of: Remembered | None = None) -> Remembered:
        until = datetime.now(UTC) + timedelta(seconds=self._keep_s)
        was = instead_of.request if instead_of is not None else None
        move = Remember(call.id, call.caller.token_id, call.key, call.digest, until, was)
        said = await self._writer.repeat(move)
        assert isinstance(said, Remembered)
        return said

    def _may_have_ticket(self, call: Call) -> bool:
        token = call.caller.token_id
        if token in self._directory.snapshot.ticketed:
            return True
        if self._own.get(token, 0.0) > time.monotonic():
            return True
        self._own.pop(token, None)
        return call.ex.header(b"x-stainless-retry-count") not in ("", "0")

    async def _with_ticket(self, call: Call) -> bool:
        """Takes up the ticket, if there is one. Whoever does not wait has no use for a place among those who do."""
        if call.later:
            return True
        move = ClaimTicket(call.id, self._gateway, call.caller.token_id, _ticket(call))
        call.claim = call.id
        try:
            ticket = await self._writer.repeat(move)
        except (DatabaseDown, asyncio.CancelledError):
            self._writer.later(PutBack(call.id))  # after the claim, if that still happens
            raise
        if not isinstance(ticket, Ticketed):
            call.claim = None
            return True
        if ticket.place is None:  # a pilot has it: its gateway had gone
            call.claim = None
            return not await self._replay.follow(call, ticket.request)
        call.id = ticket.request
        call.ex.rename(str(ticket.request))
        call.has_row = True
        call.order_key = ticket.place.order_key
        call.accepted_at = ticket.place.accepted_at
        call.crashes = ticket.place.crashes
        if call.key:
            call.ex.kept = []
        return True


def _digest(call: Call) -> str:
    """Of what is asked, and how: an answer at once is not what a request for later is told."""
    kind = b"later" if call.later else b""
    return hashlib.sha256(b"\n".join((call.asked.api.encode(), kind, call.asked.body))).hexdigest()


def _ticket(call: Call) -> str:
    """Requests with a key are told apart by it also where they ask the same."""
    if not call.key:
        return call.digest
    return hashlib.sha256(f"{call.key}\n{call.digest}".encode()).hexdigest()
