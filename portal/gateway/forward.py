"""One try of a request at one replica: through the ingress, streaming back. → how it ended.

A route's transport is opaque here, too (DESIGN §9): `transport` knows how each kind is reached. This tells
apart what was refused (no engine has seen it), what was lost before the client saw a byte (it may run again)
and what was lost later (it may not). Bodies are bytes of the type that was asked and answered with.
"""

from __future__ import annotations

import functools
import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from gpuworker import wire
from portal.acceptance.asked import Asked
from portal.admission.slots import Route
from portal.errors import ApiError
from portal.gateway.usage import Usage, UsageTap, of_answer
from portal.http.exchange import Exchange
from portal.transport.link import Link, Unreachable
from portal.transport.transport import Transports

log = logging.getLogger(__name__)

_LAST_WORD = b"data: [DONE]"
_ANY = b"application/octet-stream"

Kind = Literal["done", "failed", "refused", "lost"]


@dataclass(slots=True)
class End:
    """The end of a try. `why` says in a word why it was refused or lost: full, busy, draining … crash, gone,
    connection."""

    kind: Kind
    status: int | None = None
    why: str = ""
    error: ApiError | None = None
    usage: Usage = field(default_factory=Usage)
    content_type: str = wire.JSON  # of the answer in one piece

    @property
    def crashed(self) -> bool:
        return self.kind == "lost" and self.why == "crash"


class Forward:
    def __init__(self, site_key: bytes, transports: Transports) -> None:
        self._key = functools.lru_cache(maxsize=4096)(
            lambda pilot: wire.derive_key(site_key, "ingress", pilot)
        )
        self._links = transports
        self._refused = wire.HEADER_REFUSED.lower().encode()
        self._lost = wire.HEADER_LOST.lower().encode()

    async def stop(self) -> None:
        self._links.close()

    async def run(self, ex: Exchange, asked: Asked, route: Route, attempt: int, *, alone: bool) -> End:
        """Send the answer to the client as it comes. The caller ends the exchange unless it is done or failed
        with the answer sent. Cancelled: the connection to the engine is closed, which aborts it there."""
        headers = (
            f"Content-Type: {asked.content_type}\r\n{wire.HEADER_KEY}: {self._key(route.pilot)}\r\n"
            f"{wire.HEADER_REPLICA}: {route.replica}\r\n{wire.HEADER_REQUEST}: {ex.request_id}\r\n"
            f"{wire.HEADER_ATTEMPT}: {attempt}\r\n"
        )
        if alone:
            headers += f"{wire.HEADER_ALONE}: 1\r\n"
        end = End("lost", why="connection")
        try:
            answer = await self._links.send(route.transport, asked.at_engine, headers, asked.body)
            try:
                if why := answer.headers.get(self._refused) or answer.headers.get(self._lost):
                    end.kind = "refused" if self._refused in answer.headers else "lost"
                    end.status, end.why = answer.status, why.decode("latin-1")
                    return end
                end.status = answer.status
                if asked.stream and answer.status == 200 and _is_stream(answer):
                    await self._stream(ex, asked, answer, end)
                else:
                    await self._whole(ex, asked, answer, end)
            finally:
                self._links.done(route.transport, answer)
        except Unreachable:
            return End("refused", why="unreachable")
        except OSError as error:
            # Also a stream that broke off: content_at says whether the client had seen any of it.
            log.info("request %s: the ingress went away: %s", ex.request_id, type(error).__name__)
            if ex.content_at is not None:
                end.kind, end.error = "failed", ApiError("replica_lost")
        return end

    async def _stream(self, ex: Exchange, asked: Asked, answer: Link, end: End) -> None:
        tap = UsageTap(asked.strips_usage)
        try:
            while chunk := await answer.some():
                if ex.content_at is None:
                    await ex.begin_stream()
                    ex.content_at = time.time()
                if out := tap.feed(chunk):
                    # Set before it is sent: a client that hangs up on [DONE] has had its whole answer.
                    ex.complete = ex.complete or tap.over or _LAST_WORD in out[-32:]
                    await ex.chunk(out)
        except OSError:
            if not ex.complete:
                raise
        if ex.content_at is None:
            return  # a stream of nothing: nobody saw anything, it counts as lost
        if rest := tap.end():
            await ex.chunk(rest)
        end.usage = tap.usage
        end.kind, end.why = "done", ""
        await ex.end_stream()

    async def _whole(self, ex: Exchange, asked: Asked, answer: Link, end: End) -> None:
        body = await answer.rest()
        of_bytes = asked.endpoint.answer == "bytes"
        if answer.status == 200 and (asked.stream or not (of_bytes or _is_object(body))):
            # What it said instead is for nobody: it may be anything.
            said = "its answer is not a stream." if asked.stream else "its answer is not a JSON object."
            end.kind, end.why, end.error = "failed", "", ApiError("engine_error", detail=said)
        elif answer.status == 200:
            end.kind, end.why, ex.content_at = "done", "", time.time()
            if of_bytes:
                end.content_type = answer.headers.get(b"content-type", _ANY).decode("latin-1")
            if asked.endpoint.usage != "never":
                end.usage = of_answer(body)
            await ex.answer(200, body, content_type=end.content_type)
        else:
            end.kind, end.why, end.error = "failed", "", engine_error(answer.status, body)


def _is_stream(answer: Link) -> bool:
    return answer.headers.get(b"content-type", b"").startswith(b"text/event-stream")


def _is_object(body: bytes) -> bool:
    """Return whether it can be a JSON object: parsing every answer would cost more than all the rest of a request."""
    return body[:64].lstrip().startswith(b"{") and body[-64:].rstrip().endswith(b"}")


def engine_error(status: int, body: bytes) -> ApiError:
    """Return an engine's error answer as one of ours. Its words go to the client, never to a log."""
    said: dict[str, Any] = {}
    try:
        raw = json.loads(body)
        said = raw["error"] if isinstance(raw.get("error"), dict) else raw
    except (ValueError, AttributeError, TypeError, KeyError, RecursionError):
        said = {}
    message = said.get("message") if isinstance(said, dict) else None
    detail = str(message)[:2000] if message else f"HTTP {status}."
    if 400 <= status < 500 and status not in (401, 403):
        param = said.get("param")
        return ApiError(
            "engine_rejected", detail=detail, status=status, param=param if isinstance(param, str) else None
        )
    return ApiError("engine_error", detail=detail)
