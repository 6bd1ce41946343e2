"""The gateway's only writer: moves of the ledger from many requests → few transactions on one connection.

One thread, because psycopg2 blocks, and one connection, because a gateway must not need a database connection
per request. What waits for a COMMIT (accept, grant, interrupt) goes at once with whatever has gathered; what
nobody waits for (ends) may gather for 5 ms. A future is resolved after the COMMIT and never before.

When PostgreSQL goes away the batch is kept and tried again. What is written, and what a try whose COMMIT was not
heard had already written, is `moves`.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import psycopg2
from psycopg2.extensions import connection as Connection
from psycopg2.extensions import cursor as Cursor

from portal.db import connections
from portal.gateway import moves
from portal.gateway.moves import Cancel, EndQueued, Look, LookAtLine, Move, Used
from portal.ledger import repeats, transitions
from portal.ledger.repeats import Repeat
from portal.ledger.transitions import Finish, Grant, Granted, Interrupted, NewRequest, Recorded
from portal.policy.fairshare import Line

log = logging.getLogger(__name__)

GATHER_S = 0.005
RECORD_S = 0.05  # nobody waits for the row of a request that has had its answer
MOST = 500  # moves in one transaction
HEARTBEAT_S = 5.0
USE_NOTED_EVERY_S = 60.0  # per token
PATIENCE_S = 10.0  # how long a request waits for a database that is away
_LATE_LIMIT = 200_000  # ends kept in memory while the database is away


class DatabaseDown(Exception):
    """A question to PostgreSQL that was not answered within PATIENCE_S."""


@dataclass(slots=True, eq=False)
class _Job:
    move: Move
    answer: asyncio.Future[Any] | None = None
    abandoned: bool = False


class Writer:
    def __init__(
        self, database_url: str, gateway: str, poison_after: int, heartbeat_s: float = HEARTBEAT_S
    ) -> None:
        self._url = database_url
        self._gateway = gateway
        self._poison_after = poison_after
        self._queue: queue.SimpleQueue[list[_Job] | None] = queue.SimpleQueue()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway-writer", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Connection | None = None
        self._heartbeat_s = heartbeat_s
        self._beat_at = -heartbeat_s
        self._records: list[_Job] = []  # on their way to the thread
        self._handing: asyncio.TimerHandle | None = None
        self._used_at: dict[int, float] = {}  # by token, when its use was last written down
        self._recorded = 0  # counted by the loop, `_written` by the thread
        self._written = 0
        self.batches = 0
        self.lost_records = 0

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self, limit_s: float = 5.0) -> None:
        """Write what is left, if the database is there, and ends the thread."""
        self._hand_over()
        self._stopping.set()
        self._queue.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, limit_s)

    # Waited for. Each raises DatabaseDown.

    async def accept(self, row: NewRequest) -> None:
        await self._ask(row)

    async def grant(self, grant: Grant) -> Granted | None:
        """Move the row to running. Return None when it is not ours to run any more."""
        answer: Granted | None = await self._ask(grant)
        return answer

    async def interrupt(self, row: Interrupted) -> str | None:
        """Return "queued", "failed" (poison), or None when the row was not running as named."""
        answer: str | None = await self._ask(row)
        return answer

    async def look(self, id_: UUID) -> tuple[str, str] | None:
        """Return (state, lane) of a request."""
        answer: tuple[str, str] | None = await self._ask(Look(id_))
        return answer

    async def line(self, id_: UUID, pool: str, lane: str) -> Line:
        """Return the lane of the pool as the ledger knows it."""
        answer: Line = await self._ask(LookAtLine(id_, pool, lane))
        return answer

    async def repeat(self, move: Repeat) -> repeats.Answer:
        answer: repeats.Answer = await self._ask(move)
        return answer

    # Nobody waits for these; they are written as soon as the database lets us.

    def later(self, move: Finish | Interrupted | Cancel | EndQueued | Repeat) -> None:
        self._queue.put([_Job(move)])

    def used(self, request: str, token_id: int) -> None:
        """Note that this request showed that token, often enough to tell one that is used from one that is not."""
        now = time.monotonic()
        if now - self._used_at.get(token_id, -USE_NOTED_EVERY_S) >= USE_NOTED_EVERY_S:
            self._used_at[token_id] = now
            self._queue.put([_Job(Used(UUID(request), token_id))])

    def record(self, row: Recorded) -> None:
        """Write a row that nobody waits for. Rows are handed over by the hundred, not one by one: what wakes the
        thread takes the loop's time."""
        if self._recorded - self._written > _LATE_LIMIT:
            self.lost_records += 1
            return
        self._recorded += 1
        self._records.append(_Job(row))
        if len(self._records) == 1:
            assert self._loop is not None
            self._handing = self._loop.call_later(RECORD_S, self._hand_over)
        elif len(self._records) >= MOST:
            self._hand_over()

    def _hand_over(self) -> None:
        if self._handing is not None:
            self._handing.cancel()
            self._handing = None
        if self._records:
            self._queue.put(self._records)
            self._records = []

    async def _ask(self, move: Move) -> Any:
        job = _Job(move, asyncio.get_running_loop().create_future())
        self._queue.put([job])
        assert job.answer is not None
        try:
            return await asyncio.wait_for(job.answer, PATIENCE_S)
        except TimeoutError:
            raise DatabaseDown(f"PostgreSQL did not answer for {PATIENCE_S:.0f} s") from None
        finally:
            # Given up, or its request was cancelled: if it has not begun it never will.
            job.abandoned = job.answer.cancelled()

    # The thread

    def _run(self) -> None:
        while True:
            jobs, last = self._gather()
            self._apply(jobs)
            self._written += sum(type(job.move) is Recorded for job in jobs)
            if last:
                break
        if self._link is not None:
            self._link.close()

    def _gather(self) -> tuple[list[_Job], bool]:
        """Wait until there is something to do or a heartbeat is due. True = that was all."""
        jobs: list[_Job] = []
        urgent = False
        until = self._beat_at + self._heartbeat_s
        while len(jobs) < MOST:
            try:
                more = self._queue.get(timeout=0 if urgent else max(0.0, until - time.monotonic()))
            except queue.Empty:
                break
            if more is None:
                return jobs, True
            if not jobs:
                until = time.monotonic() + GATHER_S
            urgent = urgent or more[0].answer is not None
            jobs += more
        return jobs, False

    def _apply(self, jobs: list[_Job]) -> None:
        now = datetime.now(UTC)  # the same in every try: it marks what an earlier try of ours wrote
        again = False
        pause_s = 0.1
        while True:
            jobs = [job for job in jobs if not job.abandoned]
            try:
                link = self._connection()
                with link.cursor() as cur:
                    answers = moves.write(
                        cur, [job.move for job in jobs], now, self._poison_after, again=again
                    )
                    beat_at = self._beat(cur)
                link.commit()
                break
            except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
                log.warning("writer: PostgreSQL: %s", str(error).strip().split("\n")[0])
                self._drop_link()
                again = True
                if self._stopping.wait(pause_s):
                    return self._resolve(jobs, {}, DatabaseDown("the gateway is stopping"))
                pause_s = min(pause_s * 2, 2.0)
            except (psycopg2.Error, ValueError) as error:
                self._rollback()
                if len(jobs) <= 1:
                    log.error("writer: refused: %s", type(error).__name__)
                    return self._resolve(jobs, {}, error)
                for job in jobs:  # one that the database refuses must not take its neighbours along
                    self._apply([job])
                return None
        self.batches += 1
        self._beat_at = beat_at
        return self._resolve(jobs, answers, None)

    def _beat(self, cur: Cursor) -> float:
        """Write a heartbeat if one is due, and return when the last one was written."""
        if time.monotonic() - self._beat_at < self._heartbeat_s:
            return self._beat_at
        now = datetime.now(UTC)
        transitions.heartbeat(cur, self._gateway, "gateway", now)
        repeats.expire(cur, now)
        repeats.forget(cur, now)
        return time.monotonic()

    def _connection(self) -> Connection:
        if self._link is None or self._link.closed:
            self._link = connections.connect(self._url, f"berth {self._gateway}")
        return self._link

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            try:
                link.close()
            except psycopg2.Error:
                log.debug("the connection was closed already")

    def _rollback(self) -> None:
        try:
            if self._link is not None:
                self._link.rollback()
        except psycopg2.Error:
            self._drop_link()

    def _resolve(self, jobs: Sequence[_Job], answers: dict[UUID, Any], error: Exception | None) -> None:
        waited = [(job.answer, error or answers.get(job.move.id)) for job in jobs if job.answer is not None]
        if waited and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_set_all, waited)


def _set_all(answers: list[tuple[asyncio.Future[Any], Any]]) -> None:
    for future, answer in answers:
        if future.done():
            continue
        if isinstance(answer, Exception):
            future.set_exception(answer)
        else:
            future.set_result(answer)
