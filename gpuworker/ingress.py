"""The pilot's one network port: checks key, fence and seats, then passes a gateway's request to an engine's socket.

Everything that can be refused is refused before an engine has seen anything (`x-berth-refused`), so that the
gateway may send it elsewhere. Bodies are bytes of whatever type. What the engine says is passed on chunk by chunk and
never parsed; only where answers are JSON objects is an engine's "abort" looked for in them. A gateway that goes away
closes the engine's connection; an engine that goes away closes the gateway's without a clean end.
"""

from __future__ import annotations

import errno
import hmac
import json
import logging
import os
import re
import time
from collections.abc import Callable, Sequence

import aiohttp
from aiohttp import web

from gpuworker import wire
from gpuworker.addresses import plain, url
from gpuworker.endpoints import ENGINE_PATHS, Endpoint
from gpuworker.interfaces import Address
from gpuworker.replica import Replica
from gpuworker.replicas import Replicas
from gpuworker.row import ABORTED, DYING_S
from gpuworker.seats import Fence
from gpuworker.settings import SettingsError

log = logging.getLogger("berth.ingress")

MOST_BODY_BYTES = 64 * 2**20
_NONCE = re.compile(r"[0-9a-f]{32}")
_STATUS = {"key": 401, "path": 404, "headers": 400, "stale": 409, "body": 413}
_SENT_ON = ("Content-Type", "Cache-Control", "Retry-After")


class Ingress:
    def __init__(self, key: str, replicas: Replicas, fence: Fence, left: Callable[[Replica], None]) -> None:
        self._key = key.encode()
        self._replicas = replicas
        self._fence = fence
        self._left = left
        self._runner: web.ServerRunner | None = None
        self.draining = False

    async def start(self, addresses: Sequence[Address], ports: tuple[int, int] | None) -> list[str]:
        """Serve on these addresses only, on each on the first free port of the range, or any.

        Return the URLs by which gateways dial them. Raises SettingsError when a port or an address cannot be had.
        """
        # Cancellation of the handler is how a gateway's disconnect reaches the engine.
        server = web.Server(self.answer, access_log=None, handler_cancellation=True, keepalive_timeout=3600)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        return [url(address, await self._bind(self._runner, address, ports)) for address in addresses]

    async def _bind(self, runner: web.ServerRunner, address: Address, ports: tuple[int, int] | None) -> int:
        for port in range(ports[0], ports[1] + 1) if ports else [0]:
            try:
                await web.TCPSite(runner, str(address), port).start()
            except OSError as error:
                if ports and error.errno == errno.EADDRINUSE:
                    continue
                said = os.strerror(error.errno) if error.errno else str(error)
                raise SettingsError(f"the ingress cannot listen on {address} port {port}: {said}") from None
            return int(runner.addresses[-1][1])
        assert ports is not None
        raise SettingsError(
            f"all ports from {ports[0]} to {ports[1]} (door_ports) on {address} are taken: give the profile a wider "
            "range, at least one port for each job that may run on a node"
        )

    async def stop(self) -> None:
        if self._runner:
            await self._runner.cleanup()

    async def answer(self, request: web.BaseRequest) -> web.StreamResponse:
        """Return the engine's answer, or a refusal: whichever way the request has come (a port, a reverse link)."""
        if request.method == "GET" and request.path == "/healthz":
            return web.json_response({"ok": True})
        if request.method == "GET" and request.path == wire.PROOF_PATH:
            return self._prove(request)
        headers = request.headers
        if not hmac.compare_digest(headers.get(wire.HEADER_KEY, "").encode(), self._key):
            return _refuse("key")
        endpoint = ENGINE_PATHS.get(request.path) if request.method == "POST" else None
        if endpoint is None:
            return _refuse("path")
        name, attempt = headers.get(wire.HEADER_REQUEST, ""), headers.get(wire.HEADER_ATTEMPT, "")
        if not name or not (attempt.isascii() and attempt.isdigit()):
            return _refuse("headers")
        if self.draining:
            return _refuse("draining")
        replica = self._replicas.get(headers.get(wire.HEADER_REPLICA, ""))
        if replica is None:
            return _refuse("unknown-replica")
        if replica.state != "hot":
            return _refuse(replica.state)
        if not self._fence.passes(name, int(attempt)):
            return _refuse("stale")
        if refusal := replica.seats.take_held(headers.get(wire.HEADER_ALONE) == "1"):
            return _refuse(refusal)
        taken_at = time.time()
        try:
            body = await _read(request)
            return _refuse("body") if body is None else await _forward(request, endpoint, replica, body)
        finally:
            replica.seats.leave_held(time.time(), taken_at)
            self._left(replica)

    def _prove(self, request: web.BaseRequest) -> web.Response:
        """Prove to a portal that asks that it reaches this ingress, and not somebody else."""
        nonce = request.query.get("nonce", "")
        if _NONCE.fullmatch(nonce) is None or request.transport is None:
            return _refuse("headers")
        host, port, *_ = request.transport.get_extra_info("sockname")
        return web.Response(text=wire.ingress_proof(self._key.decode(), nonce, url(plain(host), port)))


async def _read(request: web.BaseRequest) -> bytes | None:
    if (request.content_length or 0) > MOST_BODY_BYTES:
        return None
    parts, size = [], 0
    async for part in request.content.iter_any():
        size += len(part)
        if size > MOST_BODY_BYTES:
            return None
        parts.append(part)
    return b"".join(parts)


async def _forward(
    request: web.BaseRequest, endpoint: Endpoint, replica: Replica, body: bytes
) -> web.StreamResponse:
    headers = {"Content-Type": request.headers.get("Content-Type", endpoint.content_types[0])}
    aborted = ABORTED if endpoint.answer == "object" else None
    try:
        async with replica.session.post(request.path, data=body, headers=headers) as answer:
            if answer.content_length is None and answer.status < 500:
                return await _pass_on(request, answer, aborted)
            return await _pass_whole(replica, answer, aborted)
    except (aiohttp.ClientError, TimeoutError) as error:
        # No status has been sent: streams that have begun end inside _pass_on.
        log.warning("replica %s gave no answer: %s", replica.want.id, type(error).__name__)
        return _lost(await replica.lost(DYING_S) or "gone")


async def _pass_whole(
    replica: Replica, answer: aiohttp.ClientResponse, aborted: bytes | None
) -> web.StreamResponse:
    """Return an answer of known length, read to its end first: a loss in its middle is still a clean 502.

    `aborted`: what stands in an answer that the engine cut off; None where any bytes may stand in it.
    """
    data = await answer.read()
    if answer.status >= 500 and (lost := await replica.lost(DYING_S)):
        return _lost(lost)
    if aborted is not None and aborted in data:
        return _lost("gone")
    return web.Response(status=answer.status, body=data, headers=_headers(answer))


async def _pass_on(
    request: web.BaseRequest, answer: aiohttp.ClientResponse, aborted: bytes | None
) -> web.StreamResponse:
    out = web.StreamResponse(status=answer.status, headers=_headers(answer))
    await out.prepare(request)
    try:
        async for chunk in answer.content.iter_any():
            if aborted is not None and aborted in chunk:
                raise aiohttp.ClientPayloadError("the engine cut the answer off")
            await out.write(chunk)
    except aiohttp.ClientPayloadError:
        log.warning("an answer broke off in its middle")
        # No last chunk: the gateway must not take this for the end of the answer. What was sent still arrives.
        if request.transport:
            request.transport.close()
        return out
    await out.write_eof()
    return out


def _headers(answer: aiohttp.ClientResponse) -> dict[str, str]:
    return {name: answer.headers[name] for name in _SENT_ON if name in answer.headers}


def _lost(how: str) -> web.Response:
    return _error(502, "The engine went away under this request.", wire.HEADER_LOST, how)


def _refuse(why: str) -> web.Response:
    return _error(_STATUS.get(why, 503), f"Refused by the worker: {why}.", wire.HEADER_REFUSED, why)


def _error(status: int, message: str, header: str, value: str) -> web.Response:
    error = {"message": message, "type": "worker_error", "param": None, "code": value}
    body = json.dumps({"error": error}).encode()
    return web.Response(status=status, body=body, content_type="application/json", headers={header: value})
