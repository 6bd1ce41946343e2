"""Turns free places into leased rows and those into results: the only way async and batch work reaches an engine.

Polls are never cut short while the pilot serves: the portal may have granted rows in an answer under way. A
place that opens while a poll is out is asked for by the next one; at most `POLLS` polls with rows to come are
out at once, and one more for replicas that none of them asks for. Rows that are worth having early (`ahead`) are
asked for too; one that gets no seat after all, because held work took it, goes back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter
from collections.abc import Callable

from gpuworker import row as row_call
from gpuworker import wire
from gpuworker.outbox import Outbox
from gpuworker.portal_client import PortalClient, PortalError
from gpuworker.replica import Replica
from gpuworker.replicas import Replicas
from gpuworker.seats import Fence

log = logging.getLogger("berth.leaser")

WAIT_S = 20.0
POLLS = 2
# Rows end one by one; a moment's pause asks for many places in one call.
GATHER_S = 0.01
RETRY_S = (0.2, 1.0, 3.0, 10.0)
# A row without a seat: a pilot that has one may be had sooner.
SEAT_LIMIT_S = 5.0
# A row that must run alone looks this often, is patient this long, then nothing else is admitted before it.
ALONE_LOOK_S = 0.02
ALONE_PATIENCE_S = 30.0

RowKey = tuple[str, int]


class Leaser:
    def __init__(
        self,
        pilot: str,
        portal: PortalClient,
        replicas: Replicas,
        outbox: Outbox,
        fence: Fence,
        changed: Callable[[], None],
    ) -> None:
        self._pilot = pilot
        self._portal = portal
        self._replicas = replicas
        self._outbox = outbox
        self._fence = fence
        self._changed = changed
        self._asked: Counter[str] = Counter()
        self._rows: dict[RowKey, tuple[wire.LeasedRow, asyncio.Task[None]]] = {}
        self._polls: set[asyncio.Task[None]] = set()
        self._failures = 0
        self._closed = False
        self._look = asyncio.Event()

    def rows(self) -> list[wire.RowRef]:
        return [wire.RowRef(request, attempt) for request, attempt in self._rows]

    def look(self) -> None:
        """Look again: something changed that may have opened a place. Waiting rows look too."""
        self._look.set()
        for replica in self._replicas:
            _call(replica)

    def close(self) -> None:
        """Close: ask for no more rows; what a poll still brings is given back."""
        self._closed = True

    async def run(self) -> None:
        try:
            while True:
                await self._look.wait()
                self._look.clear()
                await asyncio.sleep(GATHER_S if self._failures == 0 else self._pause_s())
                room = self.room()
                if room:
                    self._asked.update(room)
                    task = asyncio.create_task(self._poll(room))
                    self._polls.add(task)
                    task.add_done_callback(self._polls.discard)
        finally:
            for task in self._polls:
                task.cancel()

    def room(self) -> dict[str, int]:
        """Return by replica how many rows a poll may ask for now."""
        if self._closed:
            return {}
        here = Counter(row.replica for row, _ in self._rows.values())
        found = {}
        for replica in self._replicas:
            if replica.state != "hot":
                continue
            name, seats = replica.want.id, replica.seats
            # Rows here count in full: those with a seat are in `filler`, the others still need one.
            free = seats.filler_room - (here[name] - seats.filler) - self._asked[name]
            early = 0 if seats.alone or seats.claimed else replica.ahead.worth(time.monotonic())
            # Early ones are asked for by the dozen, not one by one as rows end.
            enough = 1 if free > 0 else max(1, early // 2)
            if free + early >= enough and (len(self._polls) < POLLS or self._asked[name] == 0):
                found[name] = free + early
        return found

    async def _poll(self, room: dict[str, int]) -> None:
        try:
            answer = await self._portal.lease(wire.LeaseAsk(self._pilot, room, WAIT_S))
            self._failures = 0
            for row in answer.rows:
                self._take(row)
        except PortalError as error:
            self._failures += 1
            log.warning("no lease: %s", error)
        except Exception:
            self._failures += 1  # so that the next one takes its time
            log.exception("no lease")
        finally:
            self._asked.subtract(room)
            # After the done callback has dropped this poll from the set.
            asyncio.get_running_loop().call_soon(self.look)

    def _pause_s(self) -> float:
        return RETRY_S[min(self._failures, len(RETRY_S)) - 1]

    def _take(self, row: wire.LeasedRow) -> None:
        key = (row.request, row.attempt)
        if key in self._rows:
            return
        if not self._fence.passes(row.request, row.attempt):
            self._outbox.put(row_call.give_back(row, "stale"))
            return
        replica = self._replicas.get(row.replica)
        if self._closed or replica is None or replica.state != "hot":
            self._outbox.put(row_call.give_back(row, "draining"))
            return
        task = asyncio.create_task(self._run(row, replica))
        self._rows[key] = (row, task)
        task.add_done_callback(lambda task: self._gone(row, task))

    def _gone(self, row: wire.LeasedRow, task: asyncio.Task[None]) -> None:
        self._rows.pop((row.request, row.attempt), None)
        self.look()
        if not task.cancelled() and (error := task.exception()):
            log.error("row %s: %s", row.request, type(error).__name__, exc_info=error)
            self._outbox.put(row_call.give_back(row, "worker_error"))

    async def _run(self, row: wire.LeasedRow, replica: Replica) -> None:
        if why := await self._seat(row, replica):
            self._outbox.put(row_call.give_back(row, why))
            return
        taken_at = time.time()
        try:
            result = await row_call.run(row, replica)
        finally:
            replica.seats.leave_filler(time.time(), taken_at)
            replica.ahead.ended(time.monotonic())
            _call(replica)
            if replica.seats.in_flight == 0:
                self._changed()
        self._outbox.put(result)

    async def _seat(self, row: wire.LeasedRow, replica: Replica) -> str:
        """Wait for a seat, and return "" or why there was none: the replica stops serving, or it took too
        long."""
        seats, ahead, since = replica.seats, replica.ahead, time.monotonic()
        turn = ahead.enter()
        claims = False
        try:
            while replica.state == "hot":
                if seats.take_filler(row.alone):
                    claims = False
                    return ""
                waited_s = time.monotonic() - since
                if row.alone and not claims and waited_s >= ALONE_PATIENCE_S:
                    claims = seats.claimed = True
                if not row.alone and waited_s >= SEAT_LIMIT_S:
                    return "no_seat"
                turn.clear()
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(ALONE_LOOK_S if row.alone else SEAT_LIMIT_S - waited_s):
                        await turn.wait()
            return "draining"
        finally:
            ahead.leave(turn)
            if claims:
                seats.claimed = False
            _call(replica)  # its turn may be another's now

    def cancel(self, request: str, attempt: int) -> None:
        """Cancel a row that nobody wants any more."""
        self._end([(request, attempt)], "cancelled")

    def give_back(self, replica: str | None, why: str) -> None:
        """End the rows of one replica, or all, and give them back."""
        keys = [key for key, (row, _) in self._rows.items() if replica in (None, row.replica)]
        self._end(keys, why)

    def _end(self, keys: list[RowKey], why: str) -> None:
        for key in keys:
            row, task = self._rows.get(key, (None, None))
            if row is None or task is None or task.done():
                continue
            # Result first: no moment in which a sync names the row nowhere.
            self._outbox.put(row_call.give_back(row, why))
            task.cancel()


def _call(replica: Replica) -> None:
    """Call as many of those who wait as there are seats; all of them when there will be none any more."""
    replica.ahead.call(replica.seats.filler_room if replica.state == "hot" else len(replica.ahead))
