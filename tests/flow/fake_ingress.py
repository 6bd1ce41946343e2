"""A scripted ingress: answers, refuses, loses, breaks off, as the real one may. A fake at the process boundary."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from aiohttp import web

from gpuworker import wire


@dataclasses.dataclass
class Seen:
    """One request as it came to the ingress."""

    path: str
    headers: dict[str, str]
    body: dict[str, Any]
    cut: bool = False  # its client went away before the end

    @property
    def attempt(self) -> int:
        return int(self.headers[wire.HEADER_ATTEMPT])


Behaviour = Callable[["FakeIngress", web.BaseRequest, Seen], Awaitable[web.StreamResponse]]


class FakeIngress:
    """An ingress whose answers a test chooses.

    `next` holds behaviours for the requests to come; when it is empty, requests get a good answer.
    """

    def __init__(self) -> None:
        self.seen: list[Seen] = []
        self.next: list[Behaviour] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.running = 0
        self.most = 0
        self.url = ""
        self.key = ""  # of the pilot that registers it next

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path == wire.PROOF_PATH:
            return web.Response(text=wire.ingress_proof(self.key, request.query["nonce"], self.url))
        seen = Seen(request.path, {k.lower(): v for k, v in request.headers.items()}, await request.json())
        self.seen.append(seen)
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            behaviour = self.next.pop(0) if self.next else answer_well
            return await behaviour(self, request, seen)
        except (asyncio.CancelledError, ConnectionError):  # heard of by reading, or by writing
            seen.cut = True
            raise
        finally:
            self.running -= 1

    async def start(self) -> web.ServerRunner:
        server = web.Server(self.handle, access_log=None, handler_cancellation=True)
        runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner


def event(text: str = "", usage: tuple[int, int] | None = None) -> bytes:
    choices = [] if usage else [{"index": 0, "delta": {"content": text}}]
    said: dict[str, Any] = {"id": "chatcmpl-1", "object": "chat.completion.chunk", "choices": choices}
    if usage:
        said["usage"] = {"prompt_tokens": usage[0], "completion_tokens": usage[1]}
    return b"data: " + json.dumps(said, separators=(",", ":")).encode() + b"\n\n"


async def answer_well(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
    """Wait at the gate, then answer "hello world", with usage as vLLM reports it."""
    await ingress.gate.wait()
    if not seen.body.get("stream"):
        choice = {"index": 0, "message": {"role": "assistant", "content": "hello world"}}
        usage = {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}
        return web.json_response({"id": "chatcmpl-1", "choices": [choice], "usage": usage})
    out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
    await out.prepare(request)
    for text in ("hello", " world"):
        await out.write(event(text))
    if (seen.body.get("stream_options") or {}).get("include_usage"):
        await out.write(event(usage=(7, 2)))
    await out.write(b"data: [DONE]\n\n")
    await out.write_eof()
    return out


def refuse(why: str, status: int = 503) -> Behaviour:
    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        return web.json_response({"error": {}}, status=status, headers={wire.HEADER_REFUSED: why})

    return behave


def lose(how: str) -> Behaviour:
    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        return web.json_response({"error": {}}, status=502, headers={wire.HEADER_LOST: how})

    return behave


def break_off(after: int = 1) -> Behaviour:
    """Close the connection after so many events; after 0, before even the status."""

    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        if after:
            await out.prepare(request)
        for _ in range(after):
            await out.write(event("hello"))
        assert request.transport is not None
        request.transport.close()
        return out

    return behave


def go_on_for_ever(
    ingress: FakeIngress, request: web.BaseRequest, seen: Seen
) -> Awaitable[web.StreamResponse]:
    async def behave() -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await out.prepare(request)
        while True:
            await out.write(event("again "))
            await asyncio.sleep(0.01)

    return behave()


def reject(status: int, message: str) -> Behaviour:
    async def behave(ingress: FakeIngress, request: web.BaseRequest, seen: Seen) -> web.StreamResponse:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    return behave
