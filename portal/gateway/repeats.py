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
from uuid import UUID

from portal.config import Config
from portal.errors import ApiError
from portal.gateway.call import Call, Progress
from portal.gateway.directory import REFRESH_S, Directory
from portal.gateway.replay import Replay
from portal.gateway.writer import DatabaseDown, Writer
from portal.ledger.repeats import Away, ClaimTicket, PutBack, Remember, Remembered, Ticketed, Unremember

_LONGEST_KEY = 255
# Longer than a ticket of ours takes into the directory's snapshot.
_OWN_S = 5 * REFRESH_S


class Repeats:
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
        self._claims: dict[Progress, UUID] = {}  # which try took up a ticket

    async def begin(self, call: Call) -> bool:
        """Make the call the request that its client means, and return True; False when it has been answered.

        Raises ApiError.
        """
        try:
            if call.key:  # 1.
                return await self._with_key(call, _digest(call))
            if self._may_have_ticket(call):  # 2.
                return await self._with_ticket(call, _digest(call))
        except DatabaseDown:
            raise ApiError("database_unavailable", retry_after_s=10) from None
        return True

    def leave_ticket(self, call: Call) -> None:
        """Keep the row's place for its client, who is told to come again."""
        until = datetime.now(UTC) + timedelta(seconds=self._ticket_s)
        ticket = _ticket(call, _digest(call))
        self._writer.later(Away(call.progress.id, self._gateway, call.caller.token_id, ticket, until))
        self._own[call.caller.token_id] = time.monotonic() + _OWN_S

    def end(self, call: Call) -> None:
        """Leave things as they were where the call was refused before it was served."""
        claim = self._claims.pop(call.progress, None)
        if claim is not None and not call.progress.ended:
            self._writer.later(PutBack(claim))
        elif call.key and not call.progress.has_row:
            self._writer.later(Unremember(call.progress.id))

    async def _with_key(self, call: Call, digest: str) -> bool:
        known = await self._remember(call, digest)
        while known.request != call.progress.id:
            if known.digest != digest:
                raise ApiError("idempotency_conflict", param="Idempotency-Key")
            if not await self._with_ticket(call, digest):
                return False
            if call.progress.has_row:
                return True
            if await self._replay.follow(call, known.request):
                return False
            known = await self._remember(call, digest, known)
        if not call.later:
            call.ex.kept = []
        return True

    async def _remember(self, call: Call, digest: str, instead_of: Remembered | None = None) -> Remembered:
        """Return the request that answers for the key: this one, unless there is another but `instead_of`."""
        until = datetime.now(UTC) + timedelta(seconds=self._keep_s)
        was = instead_of.request if instead_of is not None else None
        move = Remember(call.progress.id, call.caller.token_id, call.key, digest, until, was)
        known = await self._writer.repeat(move)
        assert isinstance(known, Remembered)
        return known

    def _may_have_ticket(self, call: Call) -> bool:
        token = call.caller.token_id
        if token in self._directory.snapshot.ticketed:
            return True
        if self._own.get(token, 0.0) > time.monotonic():
            return True
        self._own.pop(token, None)
        return call.ex.header(b"x-stainless-retry-count") not in ("", "0")

    async def _with_ticket(self, call: Call, digest: str) -> bool:
        """Take up the ticket, if there is one, and return True; False when the call has been answered.

        Whoever does not wait has no use for a place among those who do.
        """
        if call.later:
            return True
        progress, id_ = call.progress, call.progress.id
        move = ClaimTicket(id_, self._gateway, call.caller.token_id, _ticket(call, digest))
        self._claims[progress] = id_
        try:
            ticket = await self._writer.repeat(move)
        except (DatabaseDown, asyncio.CancelledError):
            self._writer.later(PutBack(id_))  # after the claim, if that still happens
            del self._claims[progress]
            raise
        if not isinstance(ticket, Ticketed):
            del self._claims[progress]
            return True
        if ticket.place is None:  # a pilot has it: its gateway had gone
            del self._claims[progress]
            return not await self._replay.follow(call, ticket.request)
        call.ex.rename(str(ticket.request))
        progress.id = ticket.request
        progress.has_row = True
        progress.order_key = ticket.place.order_key
        progress.accepted_at = ticket.place.accepted_at
        progress.crashes = ticket.place.crashes
        if call.key:
            call.ex.kept = []
        return True


def idempotency_key(text: str) -> str:
    """Return the key in the header, "" where there is none. Raises ApiError."""
    if len(text) > _LONGEST_KEY:
        words = f"The Idempotency-Key is longer than {_LONGEST_KEY} characters."
        raise ApiError("invalid_parameter", detail=words, param="Idempotency-Key")
    return text


def _digest(call: Call) -> str:
    """Return the digest of what is asked, and how: an answer at once is not what a request for later is told."""
    kind = b"later" if call.later else b""
    return hashlib.sha256(b"\n".join((call.asked.api.encode(), kind, call.asked.body))).hexdigest()


def _ticket(call: Call, digest: str) -> str:
    """Return what a ticket is known by. Requests with a key are told apart by it also where they ask the same."""
    if not call.key:
        return digest
    return hashlib.sha256(f"{call.key}\n{digest}".encode()).hexdigest()
