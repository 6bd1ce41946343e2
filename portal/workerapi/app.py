"""What gpuworkers call (`/worker/v1`), as an ASGI application: register, sync, lease, results. No Django.

Separate from the pages' process pool because `lease` is a long poll: a waiting pilot costs a coroutine here.
A pilot proves itself with the HMAC of its id under the site key; nothing is looked up for it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
import time
import uuid
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeVar
from uuid import UUID

import psycopg2

from gpuworker import wire
from portal.admission.pipe import QueueDown
from portal.admission.slots import Slots
from portal.batches import claims
from portal.batches.contents import Contents
from portal.config import Config
from portal.db.threads import Database
from portal.errors import ApiError
from portal.fleet.states import PilotState, ReplicaState
from portal.http.answers import failure
from portal.http.exchange import Exchange, Gone, Scope
from portal.ledger import backlog
from portal.redis import keys
from portal.redis.hint_thread import HintThread
from portal.transport.reverse import Reverse
from portal.workerapi import probe, reports, rows, spent
from portal.workerapi.admission import Admission
from portal.workerapi.hints import Hints
from portal.workerapi.reached import NotReached, by_our_clock, reached

log = logging.getLogger(__name__)
T = TypeVar("T")

PREFIX = "/worker/v1/"
LOOK_S = 1.0  # a waiting poll looks by itself: hints may be lost
BEAT_S = 10.0
_NO_UPGRADE = failure(
    "A link is a WebSocket, and this request asked for none: a proxy in front of the portal has to pass Upgrade on, and "
    "uvicorn to be started with --ws portal.workerapi.link:Upgrade.",
    "upgrade_required",
)


class WorkerApi:
    """`start`, then call it as an ASGI application, then `stop`."""

    def __init__(self, config: Config, reverse: Reverse) -> None:
        self._config = config
        self._site_key = config.site_key
        self._database = Database(config.database_url, "workerapi")
        self._contents = Contents(config.files_dir)
        self._slots = Slots(config.redis_url)
        self._reverse = reverse
        self.admission = Admission(config.site_key, self._database, reverse)
        self._hints = Hints(config.redis_url)
        self._tick_hints = HintThread()
        self._batch_hints = HintThread("batches")
        self._beaten: dict[str, float] = {}
        self._verbs: dict[str, Callable[[Exchange, bytes], Awaitable[bytes]]] = {
            "register": self._register,
            "sync": self._sync,
            "lease": self._lease,
            "results": self._results,
        }

    async def start(self) -> None:
        self._tick_hints.start()
        self._batch_hints.start()
        self._hints.start()

    async def stop(self) -> None:
        await self._hints.stop()
        self._tick_hints.stop()
        self._batch_hints.stop()
        await self._slots.close()
        await asyncio.get_running_loop().run_in_executor(None, self._database.close)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        ex = Exchange(scope, receive, send, str(uuid.uuid4()))
        verb = self._verbs.get(scope["path"].removeprefix(PREFIX))
        try:
            if scope["path"] == wire.LINK_PATH:
                await ex.answer_json(426, _NO_UPGRADE)
                return
            if verb is None or not scope["path"].startswith(PREFIX):
                raise ApiError("not_found")
            if scope["method"] != "POST":
                raise ApiError("method_not_allowed", detail="POST")
            body = await ex.read(4 * self._config.max_body_bytes)
            await ex.answer(200, await verb(ex, body))
        except Gone:
            return
        except ApiError as error:
            await ex.fail(error)
        except reports.Ended:
            await ex.answer_json(410, failure("This pilot has ended.", "pilot_ended"))
        except reports.Unknown:
            await ex.answer_json(503, failure("This pilot is not known.", "pilot_unknown"))
        except reports.Unregistered:
            await ex.answer_json(428, failure("Register first.", "not_registered"))
        except reports.NotYours:
            await ex.answer_json(409, failure("Another job is this pilot.", "not_yours"))
        except probe.Busy as error:
            log.warning("an ingress could not be asked: %s", error)
            await ex.answer_json(503, failure("The portal is busy.", "busy"))
        except NotReached as error:
            await ex.answer(424, wire.dumps(error.said))
        except (psycopg2.OperationalError, psycopg2.InterfaceError) as error:
            log.warning("%s: PostgreSQL: %s", scope["path"], str(error).strip().split("\n")[0])
            await ex.fail(ApiError("database_unavailable", retry_after_s=2))
        except Exception:
            log.exception("%s", scope["path"])
            await ex.fail(ApiError("internal"))

    def _read(self, ex: Exchange, kind: type[T], body: bytes) -> T:
        """The message, from the pilot that it names. Raises ApiError."""
        _, _, token = ex.header(b"authorization").partition(" ")
        try:
            named = json.loads(body)["pilot"]
            pilot = str(UUID(named))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise ApiError("invalid_json", detail="no pilot is named") from None
        key = wire.derive_key(self._site_key, "portal", pilot)
        if pilot != named or not hmac.compare_digest(token.strip().encode(), key.encode()):
            raise ApiError("token_unknown")
        try:
            return wire.loads(kind, body)
        except wire.WireError as error:
            raise ApiError("invalid_parameter", detail=f"{error}.") from None

    async def _register(self, ex: Exchange, body: bytes) -> bytes:
        told = by_our_clock(self._read(ex, wire.Register, body), time.time())
        said = await reached(told, self._database, self._site_key)
        work = partial(reports.register, said=said, interval_s=self._config.sync_interval_s)
        answer = await self._database.run(work)
        await self._forget_sync(said.pilot)
        log.info(
            "pilot %s registered from job %d on %s, %s", said.pilot, said.job_id, said.node, said.address
        )
        self._tick_hints.soon()
        return wire.dumps(answer)

    async def _sync(self, ex: Exchange, body: bytes) -> bytes:
        said = self._read(ex, wire.Sync, body)
        _check_ids(replica.id for replica in said.replicas)
        _check_ids(row.request for row in said.rows)
        stale = await self._is_stale(said)
        beat = time.monotonic() - self._beaten.get(said.pilot, -BEAT_S) >= BEAT_S
        heard = await self._database.run(
            partial(
                reports.sync,
                said=said,
                stale=stale,
                beat=beat,
                interval_s=self._config.sync_interval_s,
                poison_after=self._config.poison_after,
            )
        )
        if not stale:
            if beat:
                self._beaten[said.pilot] = time.monotonic()
            await self._pass_on(said, heard)
        return wire.dumps(heard.answer)

    async def _forget_sync(self, pilot: str) -> None:
        """A new agent counts from its own clock, which may have been set back since the last one's report."""
        try:
            await self._slots.delete(keys.SYNC.of(pilot))
        except QueueDown as error:
            log.warning("the last report of %s: %s", pilot, error)

    async def _is_stale(self, said: wire.Sync) -> bool:
        try:
            last = await self._slots.get(keys.SYNC.of(said.pilot))
            return last is not None and said.seq < int(json.loads(last)["seq"])
        except (QueueDown, ValueError, KeyError, TypeError):
            return False

    async def _pass_on(self, said: wire.Sync, heard: reports.Heard) -> None:
        """To Redis: the observation, the routes, hints. It may be away; the next sync says it all again."""
        observation = json.loads(wire.dumps(said)) | {"received_at": time.time(), "log_tail": None}
        try:
            await self._slots.set(
                keys.SYNC.of(said.pilot), json.dumps(observation).encode(), keys.SYNC.expires_s
            )
            reached = await self._is_reached(said.pilot, heard.pilot.address)
            for pool, (hot, gone) in _routes(said, heard, reached).items():
                await self._slots.set_routes(pool, hot, gone)
            for pool in {row.pool for row in heard.replicas.values()} if heard.requeued else ():
                await self._slots.publish(keys.ROWS.of(pool), "look")
        except QueueDown as error:
            log.warning("sync of %s: %s", said.pilot, error)
        if heard.news:
            self._tick_hints.soon()

    async def _is_reached(self, pilot: str, address: str) -> bool:
        """Whether a request could go there now. Where the pilot opens the links, some process has to hold one."""
        if not address.startswith(wire.REVERSE) or self._reverse.holds(pilot):
            return True
        return bool(await self._slots.links_of(pilot))

    async def _lease(self, ex: Exchange, body: bytes) -> bytes:
        said = self._read(ex, wire.LeaseAsk, body)
        pilot = UUID(said.pilot)
        until = time.monotonic() + max(0.0, min(said.wait_s, self._config.lease_wait_s))
        left = asyncio.Event()
        watching = ex.watch(left.set)
        try:
            pools = await self._database.run(partial(rows.pools_of, pilot=pilot))
            while not left.is_set():
                with self._hints.of(pools) as hint:
                    found = await self._database.run(
                        partial(rows.claim, pilot=pilot, room=said.room, contents=self._contents)
                    )
                    if found and left.is_set():
                        await self._give_back(pilot, found)
                        break
                    pause_s = min(LOOK_S, until - time.monotonic())
                    if found:
                        await self._started(found)
                    if found or pause_s <= 0:
                        return wire.dumps(wire.LeaseAnswer(rows=found))
                    await hint.wait(pause_s, left)
            raise Gone
        finally:
            watching.cancel()

    async def _started(self, found: list[wire.LeasedRow]) -> None:
        """The virtual time of their lines goes on. A word that is lost is made up for by the next claim; the
        rows are the pilot's already and must reach it."""
        ids = [UUID(row.request) for row in found]
        try:
            lines = await self._database.run(partial(backlog.furthest, rows=ids))
        except psycopg2.Error as error:
            log.warning("virtual time: PostgreSQL: %s", str(error).strip().split("\n")[0])
            return
        for pool, lane, key in lines:
            self._slots.started(pool, lane, key)

    async def _give_back(self, pilot: UUID, found: list[wire.LeasedRow]) -> None:
        work = partial(rows.give_back, pilot=pilot, rows=found, poison_after=self._config.poison_after)
        await self._database.run(work)

    async def _results(self, ex: Exchange, body: bytes) -> bytes:
        said = self._read(ex, wire.Results, body)
        _check_ids(row.request for row in said.results)
        work = partial(rows.take, said=said, poison_after=self._config.poison_after)
        answer = await self._database.run(work)
        if answer.late:
            log.info("pilot %s: %d late results dropped", said.pilot, len(answer.late))
        if answer.taken:
            await self._settle(answer.taken)
            await self._look_at_batches(answer.taken)
        return wire.dumps(answer)

    async def _settle(self, ended: list[str]) -> None:
        """Limits hear what the rows used. The results are in the ledger whatever becomes of this."""
        try:
            work = partial(spent.spent, ended=ended, defaults=self._config.limits)
            for row in await self._database.run(work):
                self._slots.settle(row.request, row.wants, row.used)
        except psycopg2.Error as error:
            log.warning("limits: PostgreSQL: %s", str(error).strip().split("\n")[0])

    async def _look_at_batches(self, ended: list[str]) -> None:
        """A batch whose last line has ended is over at once, not at the next look."""
        try:
            if await self._database.run(partial(claims.last_lines, ended=ended)):
                self._batch_hints.soon()
        except psycopg2.Error as error:
            log.warning("batches: PostgreSQL: %s", str(error).strip().split("\n")[0])


def _check_ids(ids: Any) -> None:
    for id_ in ids:
        try:
            UUID(id_)
        except ValueError:
            raise ApiError("invalid_parameter", detail=f"{id_[:60]!r} is not an id.") from None


def _routes(
    said: wire.Sync, heard: reports.Heard, reached: bool
) -> dict[str, tuple[dict[str, dict[str, Any]], list[str]]]:
    """pool → (routes of hot replicas, replicas that are not routable)."""
    routable = (
        reached
        and heard.pilot.state not in (PilotState.DRAINING, PilotState.ENDED)
        and not said.draining
        and not said.ending
    )
    pools: dict[str, tuple[dict[str, dict[str, Any]], list[str]]] = {}
    for seen in said.replicas:
        hot, gone = pools.setdefault(seen.pool, ({}, []))
        row = heard.replicas.get(seen.id)
        if routable and row is not None and row.state == ReplicaState.HOT and seen.state == "hot":
            hot[seen.id] = {
                "transport": heard.pilot.address,
                "pilot": said.pilot,
                "cap": seen.cap,
                "state": "hot",
                "model": seen.model,
            }
        else:
            gone.append(seen.id)
    return pools
