"""The echo engine's own process: an OpenAI-compatible server on a unix socket that repeats the last user message.

Deterministic: the answer is the message, a token is a word with the blanks after it. Where answers are any bytes, it is
the body as it came. `--args` is a JSON object:

    load_s                    seconds before the socket appears                                   0
    tokens_per_s              per request; 0 = as fast as it can                                  0
    capacity                  requests worked on at once, the rest wait inside, as in vLLM        64
    max_tokens                longest answer                                                      4096
    fail_on_start             say why and exit 1 instead of serving                               false
    crash_after_requests      exit hard when request number n + 1 arrives; 0 = never              0
    crash_on_text             exit hard when the prompt contains this text                        ""
    hang_on_text              never answer it                                                     ""
    garbage_on_text           answer 200 with something that is not JSON                          ""
    close_mid_stream_on_text  close the connection in the middle of the answer                    ""
    crash_mid_stream_on_text  exit hard in the middle of the answer                               ""
    device_mb and others      see `echo_sleep`

GET /stats counts requests but the warm-up: seen, active, aborted (the client went away), finished.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

from aiohttp import web

from gpuworker.endpoints import CHAT, EMBEDDING, ENGINE_PATHS, RESPONSE
from gpuworker.engines import echo_responses, echo_sleep
from gpuworker.engines.echo_prompt import prompt_of, tokens_of
from gpuworker.engines.echo_rank import Ranks
from gpuworker.engines.protocol import WARM_UP

VERSION = "echo-1"
CRASH_CODE = 139


@dataclass(frozen=True, slots=True)
class Faults(echo_sleep.SleepFaults):
    load_s: float = 0.0
    tokens_per_s: float = 0.0
    capacity: int = 64
    max_tokens: int = 4096
    fail_on_start: bool = False
    crash_after_requests: int = 0
    crash_on_text: str = ""
    hang_on_text: str = ""
    garbage_on_text: str = ""
    close_mid_stream_on_text: str = ""
    crash_mid_stream_on_text: str = ""


def sse(payload: dict[str, Any] | str) -> bytes:
    text = payload if isinstance(payload, str) else json.dumps(payload, separators=(",", ":"))
    return f"data: {text}\n\n".encode()


class EchoServer:
    def __init__(self, model: str, faults: Faults, ranks: Ranks | None = None) -> None:
        self.model = model
        self.ranks = ranks
        self.faults = faults
        self.capacity = asyncio.Semaphore(faults.capacity)
        self.counts = {"seen": 0, "active": 0, "aborted": 0, "finished": 0}
        self.bed = echo_sleep.Bed(faults)

    def app(self) -> web.Application:
        app = web.Application(client_max_size=64 * 2**20)
        app.router.add_get("/health", self.health)
        app.router.add_get("/version", self.version)
        app.router.add_get("/stats", self.stats)
        app.router.add_get("/v1/models", self.models)
        self.bed.add_to(app)
        for path in ENGINE_PATHS:
            app.router.add_post(path, self.serve)
        return app

    async def health(self, _: web.Request) -> web.Response:
        return web.Response()

    async def version(self, _: web.Request) -> web.Response:
        return web.json_response({"version": VERSION})

    async def stats(self, _: web.Request) -> web.Response:
        return web.json_response(self.counts)

    async def models(self, _: web.Request) -> web.Response:
        return web.json_response({"object": "list", "data": [{"id": self.model, "object": "model"}]})

    async def serve(self, request: web.Request) -> web.StreamResponse:
        if WARM_UP in request.headers:
            return await self._answer(request)
        self.counts["seen"] += 1
        self.counts["active"] += 1
        try:
            answer = await self._answer(request)
        except (asyncio.CancelledError, ConnectionError):
            self.counts["aborted"] += 1
            raise
        finally:
            self.counts["active"] -= 1
        self.counts["finished"] += 1
        return answer

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        endpoint = ENGINE_PATHS[request.path]
        if endpoint.answer == "bytes":
            return web.Response(body=await request.read(), content_type=request.content_type)
        try:
            body = await request.json()
            text, prompt_tokens = prompt_of(body)
        except (ValueError, AttributeError, TypeError):
            return self._refuse("the body is not a JSON object with messages, a prompt or an input")
        if body.get("model") != self.model:
            return self._refuse(f"the model {body.get('model')!r} does not exist", 404)
        if self.bed.asleep:
            return self._refuse("the engine sleeps", 503)
        if self.ranks is not None:
            await self.ranks.round()
        text = self.bed.muddled(text)
        await self._fault_before(text)
        if self.faults.garbage_on_text and self.faults.garbage_on_text in text:
            return web.Response(body=b"\xff<garbage>", content_type="application/json")
        if endpoint is EMBEDDING:
            return self._embedding(body.get("input", text), prompt_tokens)
        asked = (body.get(name) for name in ("max_tokens", "max_completion_tokens", "max_output_tokens"))
        limit = int(next(filter(None, asked), self.faults.max_tokens))
        tokens = tokens_of(text)[:limit]
        job = _Job(
            self, request, body, tokens, prompt_tokens, "length" if limit < len(tokens_of(text)) else "stop"
        )
        async with self.capacity:
            if endpoint is RESPONSE:
                return await (job.response_stream() if body.get("stream") else job.response())
            return await (job.stream(text) if body.get("stream") else job.whole(text))

    async def _fault_before(self, text: str) -> None:
        faults = self.faults
        if faults.crash_after_requests and self.counts["seen"] > faults.crash_after_requests:
            os._exit(CRASH_CODE)
        if faults.crash_on_text and faults.crash_on_text in text:
            os._exit(CRASH_CODE)
        if faults.hang_on_text and faults.hang_on_text in text:
            await asyncio.Event().wait()

    def _refuse(self, message: str, status: int = 400) -> web.Response:
        error = {"message": message, "type": "BadRequestError", "param": None, "code": status}
        return web.json_response({"error": error}, status=status)

    def _embedding(self, given: Any, prompt_tokens: int) -> web.Response:
        """Answer with one vector for each text, made of its hash."""
        texts = given if isinstance(given, list) else [given]
        digests = [hashlib.sha256(str(text).encode()).digest() for text in texts]
        data = [
            {
                "object": "embedding",
                "index": i,
                "embedding": [round(byte / 127.5 - 1, 6) for byte in digest[:8]],
            }
            for i, digest in enumerate(digests)
        ]
        usage = {"prompt_tokens": prompt_tokens, "total_tokens": prompt_tokens}
        return web.json_response({"object": "list", "model": self.model, "data": data, "usage": usage})


class _Job:
    """One completion: chat or text, as a stream of chunks or as one answer."""

    def __init__(
        self,
        server: EchoServer,
        request: web.Request,
        body: dict[str, Any],
        tokens: list[str],
        prompt_tokens: int,
        finish: str,
    ) -> None:
        self.server, self.request, self.body = server, request, body
        self.tokens, self.finish = tokens, finish
        self.chat = request.path == CHAT.engine_path
        total = prompt_tokens + len(tokens)
        self.usage = {"prompt_tokens": prompt_tokens, "total_tokens": total, "completion_tokens": len(tokens)}
        self.number = server.counts["seen"]
        self.head = {
            "id": f"chatcmpl-{self.number}" if self.chat else f"cmpl-{self.number}",
            "created": int(time.time()),
            "model": server.model,
        }

    async def pace(self) -> AsyncIterator[str]:
        rate = self.server.faults.tokens_per_s
        for token in self.tokens:
            if rate > 0:
                await asyncio.sleep(1 / rate)
            yield token

    async def whole(self, text: str) -> web.StreamResponse:
        answer = "".join([token async for token in self.pace()])
        self._fault_amid(text)
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": self.finish}
        choice |= {"message": {"role": "assistant", "content": answer}} if self.chat else {"text": answer}
        kind = "chat.completion" if self.chat else "text_completion"
        return web.json_response({**self.head, "object": kind, "choices": [choice], "usage": self.usage})

    async def stream(self, text: str) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await out.prepare(self.request)
        if self.chat:
            await out.write(sse(self._chunk({"role": "assistant", "content": ""}, None)))
        last = len(self.tokens) - 1
        number = 0
        async for token in self.pace():
            if number == max(1, last // 2):
                self._fault_amid(text)
            await out.write(sse(self._chunk({"content": token}, self.finish if number == last else None)))
            number += 1
        if not self.tokens:
            await out.write(sse(self._chunk({"content": ""}, self.finish)))
        if (self.body.get("stream_options") or {}).get("include_usage"):
            await out.write(sse({**self.head, "object": self._kind(), "choices": [], "usage": self.usage}))
        await out.write(sse("[DONE]"))
        await out.write_eof()
        return out

    async def response(self) -> web.StreamResponse:
        answer = "".join([token async for token in self.pace()])
        used = (self.usage["prompt_tokens"], len(self.tokens))
        said = echo_responses.response(self.number, self.server.model, answer, "completed", used)
        return web.json_response(said)

    async def response_stream(self) -> web.StreamResponse:
        out = web.StreamResponse(headers={"Content-Type": "text/event-stream; charset=utf-8"})
        await out.prepare(self.request)
        prompt_tokens = self.usage["prompt_tokens"]
        async for event in echo_responses.events(self.number, self.server.model, self.pace(), prompt_tokens):
            await out.write(event)
        await out.write_eof()
        return out

    def _kind(self) -> str:
        return "chat.completion.chunk" if self.chat else "text_completion"

    def _chunk(self, delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        choice: dict[str, Any] = {"index": 0, "logprobs": None, "finish_reason": finish}
        choice |= {"delta": delta} if self.chat else {"text": delta.get("content", "")}
        return {**self.head, "object": self._kind(), "choices": [choice]}

    def _fault_amid(self, text: str) -> None:
        crash = self.server.faults.crash_mid_stream_on_text
        if crash and crash in text:
            os._exit(CRASH_CODE)
        mark = self.server.faults.close_mid_stream_on_text
        if mark and mark in text and self.request.transport is not None:
            self.request.transport.abort()
            raise ConnectionResetError("closed in the middle, as asked")


async def main(uds: str, model: str, faults: Faults, world: int, master: str, port: int) -> None:
    ranks = None
    if world > 1:
        ranks = Ranks(world)
        await ranks.meet(master, port)
    print("loading weights", flush=True)
    await asyncio.sleep(faults.load_s)
    if faults.fail_on_start:
        raise SystemExit("echo: told to fail on start")
    server = EchoServer(model, faults, ranks)
    # Cancellation of the handler is how a closed connection aborts the work, as in vLLM.
    runner = web.AppRunner(server.app(), access_log=None, handler_cancellation=True, keepalive_timeout=3600)
    await runner.setup()
    await web.UnixSite(runner, uds).start()
    print("serving", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--uds", required=True)
    parser.add_argument("--model", required=True)
    parser.add_argument("--args", default="{}")
    parser.add_argument("--world", type=int, default=1)
    parser.add_argument("--master", default="")
    parser.add_argument("--port", type=int, default=0)
    given = parser.parse_args()
    said = Faults(**json.loads(given.args))
    asyncio.run(main(given.uds, given.model, said, given.world, given.master, given.port))
