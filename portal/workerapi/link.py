"""A WebSocket that a pilot opens → a link in this process's hands; `uvicorn --ws portal.workerapi.link:Upgrade`.

uvicorn hands the connection over once it has read a request that asks for a WebSocket. ASGI's WebSockets are messages
from task to task; this keeps the connection, which what stands inside may then pause and resume (decisions/0023).
Nothing of what a peer sends after its headers is read before its token is checked.
"""

from __future__ import annotations

import asyncio
import http
import logging
from collections.abc import Mapping
from typing import Any, Protocol, cast

from gpuworker import wire
from portal.http.answers import JSON, encoded, failure

log = logging.getLogger(__name__)

STATE = "berth_linking"  # where the application leaves what admits links, in the lifespan's state
ADMIT_S = 10.0
_NOBODY = "This process takes no links."


class Refused(Exception):
    """A refusal of a link, with an HTTP status and the reason in words."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status = status


class Admits(Protocol):
    """The part of the worker API that knows about links (`admission`)."""

    async def admit(self, headers: Mapping[bytes, bytes]) -> str:
        """Return the pilot that this is. Raises Refused."""

    def opened(self, pilot: str, lost: Any) -> wire.Tunnel: ...

    def ready(self, pilot: str, tunnel: wire.Tunnel) -> None: ...

    def leave(self) -> None: ...


class Upgrade(asyncio.Protocol):
    """One connection from the end of its request to the tunnel, and uvicorn's handle on it until it is lost."""

    def __init__(self, config: Any, server_state: Any, app_state: dict[str, Any], _loop: Any = None) -> None:
        self._connections: set[Any] = server_state.connections
        self._admits: Admits | None = app_state.get(STATE)
        self._transport: asyncio.Transport | None = None
        self._task: asyncio.Task[None] | None = None
        self._tunnel: wire.Tunnel | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        if (
            self._task is not None
        ):  # it speaks before it has been answered: nobody who knows the protocol does
            self._close()
            return
        self._task = asyncio.get_running_loop().create_task(self._answer(data), name="link")

    def connection_lost(self, error: Exception | None) -> None:
        self._lost()
        if self._task is not None:
            self._task.cancel()

    def shutdown(self) -> None:
        """Shut down as uvicorn ends: what is idle is closed, what is in use when its request is over."""
        if self._tunnel is None or self._admits is None:
            self._close()
        else:
            self._admits.leave()

    def _lost(self) -> None:
        self._connections.discard(self)

    def _close(self) -> None:
        if self._transport is not None:
            self._transport.close()

    async def _answer(self, head: bytes) -> None:
        assert self._transport is not None
        try:
            async with asyncio.timeout(ADMIT_S):
                path, headers = _read(head)
                if path.partition(b"?")[0] != wire.LINK_PATH.encode():
                    raise Refused(404, "There is no WebSocket at this address.")
                key = headers.get(b"sec-websocket-key", b"")
                if not key or headers.get(b"sec-websocket-version") != b"13":
                    raise Refused(400, "This is not a WebSocket's opening handshake.")
                if self._admits is None:
                    raise Refused(404, _NOBODY)
                pilot = await self._admits.admit(headers)
        except Refused as refused:
            self._refuse(refused.status, str(refused))
        except TimeoutError:
            self._refuse(503, "It took too long to look the pilot up.")
        except Exception:
            log.exception("a link")
            self._refuse(500, "Something of ours broke.")
        else:
            try:
                self._take(pilot, key)
            except Exception:  # nobody awaits this task, and its connection would stay
                log.exception("a link of pilot %s", pilot)
                self._transport.abort()

    def _take(self, pilot: str, key: bytes) -> None:
        assert self._transport is not None and self._admits is not None
        if self._transport.is_closing():
            return
        tunnel = self._tunnel = self._admits.opened(pilot, self._lost)
        tunnel.connection_made(self._transport)
        self._transport.set_protocol(tunnel)
        self._transport.write(
            b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            b"Sec-WebSocket-Accept: " + wire.accept_of(key) + b"\r\n\r\n"
        )
        self._admits.ready(pilot, tunnel)

    def _refuse(self, status: int, why: str) -> None:
        assert self._transport is not None
        body = encoded(failure(why, "link_refused"))
        first = f"HTTP/1.1 {status} {http.HTTPStatus(status).phrase}\r\nContent-Type: {JSON}\r\n"
        self._transport.write(
            f"{first}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode() + body
        )
        self._close()


def _read(head: bytes) -> tuple[bytes, dict[bytes, bytes]]:
    """Read the path and the headers, names in lower case, as uvicorn hands them over. Raise Refused."""
    first, *lines = head.partition(b"\r\n\r\n")[0].split(b"\r\n")
    words = first.split(b" ")
    if len(words) != 3 or words[0] != b"GET":
        raise Refused(405, "A WebSocket is opened with GET.")
    pairs = (line.partition(b":") for line in lines)
    return words[1], {name.strip().lower(): value.strip() for name, _, value in pairs}
