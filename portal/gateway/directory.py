"""Who may ask what, and how each model is doing: an in-process snapshot of PostgreSQL, at most 2 s old.

One thread with one connection of its own reads; requests look things up without waiting. A token or model that
the snapshot does not know is asked of PostgreSQL before anyone is turned away, and a revocation is pushed
(`refresh_soon`, from the Redis channel keys.DIRECTORY). Only tokens that were used here are kept in memory.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import psycopg2
from psycopg2.extensions import connection as Connection

from portal.accounts.callers import Caller, read_callers, read_quotas
from portal.catalog.entries import ModelEntry, read_models
from portal.db import connections
from portal.errors import ApiError
from portal.fleet.phase import Phase
from portal.fleet.phases import read_phases
from portal.ledger.repeats import read_ticketed
from portal.policy.limits import Level, Quota

log = logging.getLogger(__name__)

REFRESH_S = 2.0
PATIENCE_S = 10.0
FORGET_S = 600.0  # a token unused for this long is read again when it comes back
STALE_S = 60.0  # older than this and the database away: nobody is let in
_LEAST_S = 0.2  # unknown models cause at most one reading per this many seconds


@dataclass(frozen=True, slots=True)
class Snapshot:
    models: dict[str, ModelEntry]
    phases: dict[str, Phase]
    read_at: float  # monotonic
    ticketed: frozenset[int] = frozenset()  # tokens that left tickets
    quotas: Mapping[tuple[Level, str], Quota] = field(default_factory=dict)


@dataclass(slots=True, eq=False)
class _Ask:
    """One question to the thread: a token by digest, or a fresh snapshot (digest None)."""

    digest: str | None
    answer: asyncio.Future[Caller | None]


class Directory:
    def __init__(self, database_url: str, name: str) -> None:
        self._url = database_url
        self._name = name
        self._asks: queue.SimpleQueue[_Ask | None] = queue.SimpleQueue()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="gateway-directory", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._link: Connection | None = None
        self._callers: dict[str, Caller] = {}
        self._used: dict[str, float] = {}
        self.snapshot = Snapshot({}, {}, float("-inf"))

    def start(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread.start()

    async def stop(self) -> None:
        self._stopping = True
        self._asks.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join, 5.0)

    # Asked by requests

    def known(self, digest: str) -> Caller | None:
        """Return who holds the token with this digest, if it has been used here; revoked and expired ones too, they are
        told so. Raises ApiError."""
        caller = self._callers.get(digest)
        if caller is not None:
            self._used[digest] = time.monotonic()
            if self._used[digest] - self.snapshot.read_at > STALE_S:
                raise ApiError("database_unavailable", retry_after_s=10)
        return caller

    async def caller(self, digest: str) -> Caller | None:
        """Return who holds the token with this digest, asked of PostgreSQL where it is not known. Raises ApiError."""
        return self.known(digest) or await self._ask(digest)

    async def model(self, name: str, project_id: int) -> ModelEntry | None:
        """Return the model, if there is one of this name that the project may use. Raises ApiError."""
        entry = self.snapshot.models.get(name)
        if entry is None or not entry.open_to(project_id):
            now = time.monotonic()
            await asyncio.sleep(max(0.0, self.snapshot.read_at + _LEAST_S - now))
            if self.snapshot.read_at < now:
                await self._ask(None)
            entry = self.snapshot.models.get(name)
        return entry if entry is not None and entry.open_to(project_id) else None

    def models(self, project_id: int) -> list[ModelEntry]:
        return [entry for entry in self.snapshot.models.values() if entry.open_to(project_id)]

    def phase(self, pool: str) -> Phase:
        return self.snapshot.phases.get(pool) or Phase("not_loaded", None, "")

    def refresh_soon(self) -> None:
        """Read now: something was revoked or changed."""
        self._asks.put(None)

    async def _ask(self, digest: str | None) -> Caller | None:
        ask = _Ask(digest, asyncio.get_running_loop().create_future())
        self._asks.put(ask)
        try:
            return await asyncio.wait_for(ask.answer, PATIENCE_S)
        except (TimeoutError, psycopg2.Error):
            raise ApiError("database_unavailable", retry_after_s=10) from None

    # The thread

    def _run(self) -> None:
        pause_s = 0.2
        next_at = time.monotonic()
        while not self._stopping:
            asks = self._gather(next_at)
            try:
                self._read(
                    asks, everything=time.monotonic() >= next_at or any(a.digest is None for a in asks)
                )
                next_at, pause_s = time.monotonic() + REFRESH_S, 0.2
            except psycopg2.Error as error:
                log.warning("directory: PostgreSQL: %s", str(error).strip().split("\n")[0])
                self._drop_link()
                for ask in asks:
                    self._tell(ask.answer, error)
                next_at, pause_s = time.monotonic() + pause_s, min(pause_s * 2, 2.0)
        self._drop_link()

    def _gather(self, next_at: float) -> list[_Ask]:
        """Wait for questions, or until the next reading is due. A bare None asks for a reading."""
        asks: list[_Ask] = []
        wait_s = max(0.0, next_at - time.monotonic())
        while True:
            try:
                ask = self._asks.get(timeout=wait_s)
            except queue.Empty:
                return asks
            asks.append(ask or _Ask(None, _NOBODY))
            wait_s = 0.0

    def _read(self, asks: list[_Ask], *, everything: bool) -> None:
        if self._link is None or self._link.closed:
            self._link = connections.connect(self._url, f"berth {self._name} directory", autocommit=True)
        digests = {ask.digest for ask in asks if ask.digest is not None}
        with self._link.cursor() as cur:
            if everything:
                now = time.monotonic()
                for digest in [d for d, used in list(self._used.items()) if now - used > FORGET_S]:
                    self._used.pop(digest, None)
                self._callers = read_callers(cur, digests | set(self._used))
                self.snapshot = Snapshot(
                    read_models(cur),
                    read_phases(cur, time.time()),
                    now,
                    read_ticketed(cur),
                    read_quotas(cur),
                )
            elif digests:
                self._callers = self._callers | read_callers(cur, digests)
        now = time.monotonic()
        for ask in asks:
            caller = self._callers.get(ask.digest) if ask.digest is not None else None
            if caller is not None and ask.digest is not None:
                self._used[ask.digest] = now
            self._tell(ask.answer, caller)

    def _tell(self, answer: asyncio.Future[Any], value: Any) -> None:
        if answer is not _NOBODY and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(_settle, answer, value)

    def _drop_link(self) -> None:
        link, self._link = self._link, None
        if link is not None:
            try:
                link.close()
            except psycopg2.Error:
                log.debug("the connection was closed already")


_NOBODY: Any = object()


def _settle(answer: asyncio.Future[Any], value: Any) -> None:
    if answer.done():
        return
    if isinstance(value, Exception):
        answer.set_exception(value)
    else:
        answer.set_result(value)
