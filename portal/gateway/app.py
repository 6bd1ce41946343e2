"""The data plane as an ASGI application: path → caller → what is asked → one flow. No framework, no Django.

It is separate from the pages so that a stream costs no thread, no middleware and no database connection.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
import uuid
from datetime import UTC, datetime
from typing import Any

from gpuworker.wire import ENDPOINTS, RESPONSE
from portal.acceptance import inference_request, rule
from portal.acceptance.rule import Facts, verdict
from portal.accounts import tokens
from portal.accounts.callers import Caller
from portal.admission.keeper import Keeper
from portal.admission.slots import Slots
from portal.config import Config
from portal.db.threads import Database
from portal.errors import ApiError
from portal.gateway.background import Background
from portal.gateway.call import Call, Progress
from portal.gateway.directory import Directory
from portal.gateway.forward import Forward
from portal.gateway.hold import Hold
from portal.gateway.limits import Limits
from portal.gateway.live_calls import LiveCalls
from portal.gateway.openai.batches import Batches
from portal.gateway.openai.files import Files
from portal.gateway.openai.model_list import ModelList
from portal.gateway.openai.responses import Responses
from portal.gateway.operations import LOOK, USE, Operation, Operations
from portal.gateway.order import HEADER as PRIORITY
from portal.gateway.order import priority
from portal.gateway.repeats import Repeats, idempotency_key
from portal.gateway.replay import Replay
from portal.gateway.serve import Serve
from portal.gateway.settlement import Settlement
from portal.gateway.writer import HEARTBEAT_S, Writer
from portal.http.exchange import Exchange, Gone, Scope
from portal.redis.hint_thread import HintThread
from portal.transport.relay import Relay
from portal.transport.reverse import Reverse
from portal.transport.transport import Transports

log = logging.getLogger(__name__)

_READY_S = 10.0


class Gateway:
    """The data plane: `start` it, then call it as an ASGI application, then `stop` it."""

    def __init__(self, config: Config) -> None:
        self.id = f"gw-{socket.gethostname()[:30]}-{os.getpid()}-{secrets.token_hex(3)}"
        self._config = config
        self.slots = Slots(config.redis_url)
        self.directory = Directory(config.database_url, self.id)
        # Four missed heartbeats make a gateway stale: one late COMMIT must not.
        heartbeat_s = min(HEARTBEAT_S, config.holder_stale_s / 4)
        self.writer = Writer(config.database_url, self.id, config.poison_after, heartbeat_s)
        self._tick_hints = HintThread()
        self.reverse = Reverse(self.id, self.slots, Relay(config.site_key, config.relay_address))
        self._forward = Forward(config.site_key, Transports(self.reverse))
        live = LiveCalls()
        self.keeper = Keeper(
            self.slots,
            config.redis_url,
            self.id,
            on_cancel=live.cancel,
            on_directory=self.directory.refresh_soon,
        )
        hold = Hold(self.slots, self.directory, config)
        self._database = Database(config.database_url, f"{self.id} reads", threads=2)
        replay = Replay(self._database, hold, config)
        self._repeats = Repeats(self.id, self.directory, self.writer, replay, config)
        self._limits = Limits(self.slots, self.directory, config.limits)
        self._entry = Database(config.database_url, f"{self.id} entry", threads=2)
        self._background = Background(self.slots, self.writer, self._limits, self._entry, self._waits)
        settlement = Settlement(
            self.id, self.slots, self.keeper, self.writer, self._limits, self._repeats, config.poison_after
        )
        self._serve = Serve(
            self.id,
            self.slots,
            self.keeper,
            self.writer,
            hold,
            self._forward,
            self._waits,
            self._limits,
            live,
            settlement,
        )
        self.operations = self._operations(
            Responses(self._database),
            ModelList(self.directory),
            Files(config, self._database),
            Batches(self._database),
        )

    def _operations(
        self, responses: Responses, models: ModelList, files: Files, batches: Batches
    ) -> Operations:
        return Operations(
            [
                *(Operation("POST", path, USE, self._infer) for path in ENDPOINTS),
                Operation("GET", f"{RESPONSE.path}/{{id}}", LOOK, responses.show),
                Operation("POST", f"{RESPONSE.path}/{{id}}/cancel", USE, responses.cancel),
                Operation("GET", "/v1/models", LOOK, models.listing),
                Operation("GET", "/v1/models/{model}", LOOK, models.show),
                Operation("GET", "/v1/files", LOOK, files.listing),
                Operation("POST", "/v1/files", USE, files.create),
                Operation("GET", "/v1/files/{file}", LOOK, files.show),
                Operation("DELETE", "/v1/files/{file}", USE, files.delete),
                Operation("GET", "/v1/files/{file}/content", LOOK, files.content),
                Operation("GET", "/v1/batches", LOOK, batches.listing),
                Operation("POST", "/v1/batches", USE, batches.create),
                Operation("GET", "/v1/batches/{batch}", LOOK, batches.show),
                Operation("POST", "/v1/batches/{batch}/cancel", USE, batches.cancel),
            ]
        )

    async def start(self) -> None:
        self.directory.start()
        self.writer.start()
        self._tick_hints.start()
        await self.reverse.start()
        await self.keeper.start()
        self._limits.start()
        try:
            # Grants to a gateway that does not listen yet are dropped. Redis may also be away: then go on.
            await asyncio.wait_for(self.keeper.listening.wait(), _READY_S)
        except TimeoutError:
            log.warning("Redis does not answer at start; requests wait until it does")

    def _waits(self, pool: str) -> None:
        """Wake the control loop for a pool in which somebody waits.

        The usual ticks look after one that is hot or on its way.
        """
        if self.directory.phase(pool).residency == "not_loaded":
            self._tick_hints.soon()

    async def stop(self) -> None:
        await self._limits.stop()
        await self.keeper.stop()
        await self._forward.stop()
        await self.reverse.stop()
        self._tick_hints.stop()
        loop = asyncio.get_running_loop()
        # Before the writer: what a thread still commits for a client that was told otherwise is taken back by it.
        await loop.run_in_executor(None, self._entry.close)
        await asyncio.sleep(0)
        await self.writer.stop()
        await loop.run_in_executor(None, self._database.close)
        await self.directory.stop()
        await self.slots.close()

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        ex = Exchange(scope, receive, send, str(uuid.uuid4()))
        try:
            operation, name = self.operations.find(scope["method"], scope["path"])
            told = await operation.serve(ex, await self._caller(ex, *operation.scopes), name)
            if told is not None:
                await ex.answer_json(200, told)
        except ApiError as error:
            await ex.fail(error)
        except Gone:
            return
        except Exception:
            log.exception("request %s", ex.request_id)  # the traceback shows code, not bodies
            await ex.fail(ApiError("internal"))

    async def _caller(self, ex: Exchange, *scopes: str) -> Caller:
        """Return whose token this is, if it has one of the scopes. Raises ApiError."""
        kind, _, text = ex.header(b"authorization").partition(" ")
        text = text.strip()
        if kind.lower() != "bearer" or not text:
            raise ApiError("token_missing")
        digest = tokens.digest(text)
        caller = self.directory.known(digest)
        if caller is None:
            if not tokens.well_formed(text):
                raise ApiError("token_malformed")
            caller = await self.directory.caller(digest)
        if caller is None:
            raise ApiError("token_unknown")
        if caller.standing != "active":
            raise ApiError(f"token_{caller.standing}")
        if caller.expires_at <= time.time():
            raise ApiError("token_expired")
        if caller.scopes.isdisjoint(scopes):
            raise ApiError("scope_missing", detail=scopes[0])
        self.writer.used(ex.request_id, caller.token_id)
        return caller

    async def _infer(self, ex: Exchange, caller: Caller, _: str) -> None:
        body = await ex.read(self._config.max_body_bytes)
        asked = inference_request.read(ex.scope["path"], body, ex.header(b"content-type"))
        model = await self.directory.model(asked.model, caller.project_id)
        facts = Facts(asked.model, model, caller.project_id)
        verdict(facts).accepted()
        assert model is not None
        call = Call(
            ex=ex,
            asked=asked,
            caller=caller,
            pool=model.pool,
            priority=rule.priority(priority(ex.header(PRIORITY)), caller.priority),
            key=idempotency_key(ex.header(b"idempotency-key")),
            later=asked.background or "respond-async" in ex.header(b"prefer").lower(),
            since=time.monotonic(),
            progress=Progress(uuid.UUID(ex.request_id), datetime.now(UTC)),
        )
        phase = self.directory.phase(model.pool)
        if phase.residency == "unavailable" and not call.later:
            raise ApiError("model_unavailable", detail=phase.named(asked.model).reason)
        if not await self._repeats.begin(call):
            return
        try:
            if call.later:
                await self._background.accept(call, facts)
            else:
                await self._serve.run(call, await self._limits.enter(call))
        finally:
            self._repeats.end(call)
            self._limits.leave(call)
