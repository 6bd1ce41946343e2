"""A request that others have in hand → its answer, given to a second client as it was given to the first.

Separate from `repeats`, which decides whether a client means such a request. Looks at the ledger now and then: who
answers it may be another gateway or a pilot.
"""

from __future__ import annotations

import asyncio
import math
import time
from functools import partial
from uuid import UUID

import psycopg2

from portal.config import Config
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.background import told
from portal.gateway.call import Call
from portal.gateway.hold import FIRST_BEAT_S, Hold
from portal.http.exchange import Gone, Headers
from portal.ledger.answers import Found, find
from portal.ledger.states import Lane

_FIRST_LOOK_S = 0.05
_LOOK_S = 1.0
# Its key was remembered, its row is on its way: a gateway writes the two apart.
_MISSING_S = 5.0
_AGAIN_S = 5
_REPLAYED: Headers = [(b"idempotent-replayed", b"true")]


class Replay:
    def __init__(self, database: Database, hold: Hold, config: Config) -> None:
        self._database = database
        self._hold = hold
        self._heartbeat_s = config.heartbeat_s

    async def follow(self, call: Call, id_: UUID) -> bool:
        """Wait for its end, answer, and return True; False: it came to no answer that could be given twice. Raises
        ApiError."""
        left = asyncio.Event()
        watching = call.ex.watch(left.set)
        try:
            return await self._follow(call, id_, left)
        finally:
            watching.cancel()

    async def _follow(self, call: Call, id_: UUID, left: asyncio.Event) -> bool:
        begun = time.monotonic()
        until = math.inf if call.asked.stream else begun + self._hold.patience_s(call.ex)
        beat_at, pause_s = begun + FIRST_BEAT_S, _FIRST_LOOK_S
        while True:
            found = await self._find(id_)
            now = time.monotonic()
            if found is None:
                if now - begun > _MISSING_S:
                    return False
            elif call.later:
                await _answer_later(call, found)
                return True
            elif found.ended_at is not None:
                if found.answers_again:
                    await _answer(call, found)
                return found.answers_again
            if now >= until:
                raise ApiError("in_flight", retry_after_s=_AGAIN_S)
            if call.asked.stream and now >= beat_at:
                await call.ex.comment({"reason": "The same request is being answered; its answer follows."})
                beat_at = now + self._heartbeat_s
            try:
                await asyncio.wait_for(left.wait(), pause_s)
            except TimeoutError:
                pause_s = min(2 * pause_s, _LOOK_S)
            else:
                raise Gone

    async def _find(self, id_: UUID) -> Found | None:
        try:
            return await self._database.run(partial(find, id_=id_))
        except psycopg2.Error:
            raise ApiError("database_unavailable", retry_after_s=10) from None


async def _answer_later(call: Call, found: Found) -> None:
    call.ex.rename(str(found.id))
    call.ex.extra += _REPLAYED
    await told(call, found.state)


async def _answer(call: Call, found: Found) -> None:
    ex, body = call.ex, found.result or b""
    ex.rename(str(found.id))
    ex.extra += _REPLAYED
    status = found.http_status or 200
    if not call.asked.stream:
        await ex.answer(status, body, content_type=found.result_type)
    elif found.lane != Lane.HELD:  # a pilot answered it, in one piece
        raise ApiError("detached")
    elif status == 200:
        await ex.begin_stream()
        await ex.chunk(body)
        await ex.end_stream()
    elif ex.streaming:
        await ex.chunk(b"data: " + body + b"\n\n")
        await ex.end_stream()
    else:
        await ex.answer(status, body)
