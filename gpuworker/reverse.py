"""Links to a portal that cannot dial this node: WebSocket connections that the agent opens, requests coming down them.

Each carries one request at a time, as a kept HTTP/1.1 connection does the other way round, and what comes down it is
answered by the same `Ingress` as what comes through a port. Some are always idle, so that the next request need not
wait for one; more are opened as they get busy, and those that nobody needs are closed again. With several portal
processes behind one address each link is held by whichever accepted it; they find each other’s (portal/transport).
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Awaitable, Callable
from urllib.parse import urlsplit

from aiohttp import web

from gpuworker import exits, frames, wire
from gpuworker.exits import CannotServe
from gpuworker.tunnel import Tunnel, watch
from gpuworker.wakeup import woken

log = logging.getLogger("berth.reverse")

SPARE = 4  # idle links at least
AT_ONCE = 16  # openings under way
LOOK_S = 1.0
SHRINK_S = 30.0  # more idle links than needed for so long: one in two goes
OPEN_LIMIT_S = 10.0
# Without a link while the portal answers otherwise: a proxy that passes no Upgrade on, most likely.
FIRST_LINK_LIMIT_S = 30.0
LINK_AGAIN_LIMIT_S = 300.0
PAUSES_S = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0)
NEVER_S = 1e8
MOST_HEAD = 16_384
Answer = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


class Unlinked(Exception):
    """The portal does not take a link; the text says why, as well as it is known."""

    def __init__(self, why: str, status: int = 0) -> None:
        super().__init__(why)
        self.status = status


class Reverse:
    """The links of a pilot whose node cannot be dialled; `run` keeps them.

    `answer` is the ingress's. `most` is how many requests may be in flight here at once. `changed` hears of
    the first link and of the last.
    """

    def __init__(
        self,
        secret: wire.Secret,
        job_id: int,
        answer: Answer,
        most: Callable[[], int],
        changed: Callable[[], None],
    ) -> None:
        self._url = secret.portal_url.rstrip("/") + wire.LINK_PATH
        self._headers = (
            f"Authorization: Bearer {secret.portal_token}\r\n"
            f"{wire.HEADER_PILOT}: {secret.pilot}\r\n{wire.HEADER_JOB}: {job_id}\r\n"
        )
        self._answer = answer
        self._most = most
        self._changed = changed
        # What it gives up by itself would race with a request on its way: only the portal ends an idle link.
        self._server = web.Server(
            self._serve, access_log=None, handler_cancellation=True, keepalive_timeout=NEVER_S
        )
        self._links: dict[Tunnel, float] = {}  # → when it was idle last, monotonic
        self._busy: set[Tunnel] = set()
        self._leaving: set[Tunnel] = set()
        self._openings: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._failures = 0
        self._next_at = 0.0
        self._roomy_since: float | None = None
        self._ever = False
        self.why = ""  # the last opening failed
        self._answers_since: float | None = None
        self.unlinked_since: float | None = time.monotonic()  # None while there is a link

    async def run(self) -> None:
        """Keep the links for ever."""
        pinged_at = time.monotonic()
        while True:
            self._wake.clear()
            now = time.monotonic()
            missing = self._wanted() - len(self._links) - len(self._openings)
            if now >= self._next_at:
                # After a failure one asks for all.
                most = 1 - len(self._openings) if self._failures else AT_ONCE - len(self._openings)
                for _ in range(min(missing, most)):
                    self._open_soon()
            self._shrink(-missing, now)
            if now - pinged_at >= wire.PING_S:
                pinged_at = now
                self._look_after()
            await woken(self._wake, min(LOOK_S, max(0.01, self._next_at - now)) if missing > 0 else LOOK_S)

    def heard(self, answered: bool) -> None:
        """Learn whether the portal has answered a sync. Raise CannotServe.

        A portal that does and takes no link will send no request: whoever waits is to learn why, and the GPUs
        are to be given back. One that is silent says nothing.
        """
        now = time.monotonic()
        self._answers_since = (self._answers_since or now) if answered else None
        limit_s = LINK_AGAIN_LIMIT_S if self._ever else FIRST_LINK_LIMIT_S
        if self._answers_since is None or self.unlinked_since is None:
            return
        if now - max(self._answers_since, self.unlinked_since) < limit_s:
            return
        raise CannotServe(
            exits.UNLINKED,
            f"The portal answers at {self._url.removesuffix(wire.LINK_PATH)}, but for {limit_s:.0f} s it took none of "
            f"the links that the profile's link: reverse wants: {self.why or 'no answer'}",
        )

    async def stop(self) -> None:
        for task in self._openings:
            task.cancel()
        await self._server.shutdown(0.1)
        for link in [*self._links, *self._leaving]:
            link.close()

    def _wanted(self) -> int:
        busy = len(self._busy)
        return max(SPARE, min(busy + max(SPARE, busy), self._most() + SPARE))

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        link = request.transport
        assert isinstance(link, Tunnel)
        self._busy.add(link)
        if len(self._links) + len(self._openings) < self._wanted():
            self._wake.set()
        try:
            return await self._answer(request)
        finally:
            self._busy.discard(link)
            if link in self._links:
                self._links[link] = time.monotonic()

    # Opening

    def _open_soon(self) -> None:
        task = asyncio.create_task(self._open(), name="link")
        self._openings.add(task)
        task.add_done_callback(self._opened)

    def _opened(self, task: asyncio.Task[None]) -> None:
        self._openings.discard(task)
        self._wake.set()

    async def _open(self) -> None:
        try:
            async with asyncio.timeout(OPEN_LIMIT_S):
                await self._dial()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next opening waits its time
            said = str(error) if isinstance(error, Unlinked) else f"{type(error).__name__}: {error}"
            if said != self.why or self._failures % 20 == 0:
                log.warning("no link to %s: %s", self._url, said)
            self.why = said
            pause_s = PAUSES_S[min(self._failures, len(PAUSES_S) - 1)]
            self._failures += 1
            self._next_at = time.monotonic() + pause_s
        else:
            if self._failures:
                log.info("linked to %s again", self._url)
            self._failures, self.why = 0, ""

    async def _dial(self) -> None:
        """Open one link. Raise OSError, Unlinked, ValueError."""
        parts = urlsplit(self._url)
        tls = ssl.create_default_context() if parts.scheme == "https" else None
        port = parts.port or (443 if tls else 80)
        opening = _Opening(self._tunnel, parts.netloc, parts.path, self._headers)
        loop = asyncio.get_running_loop()
        transport, _ = await loop.create_connection(lambda: opening, parts.hostname or "", port, ssl=tls)
        try:
            await opening.done
        except BaseException:
            transport.abort()
            raise

    def _tunnel(self) -> Tunnel:
        def lost() -> None:
            self._links.pop(link, None)
            self._busy.discard(link)
            self._leaving.discard(link)
            if not self._links and self.unlinked_since is None:
                self.unlinked_since = time.monotonic()
                self._changed()
            self._wake.set()

        link = Tunnel(self._server(), client=True, on_lost=lost)
        self._links[link] = time.monotonic()
        self._ever = True
        if self.unlinked_since is not None:
            self.unlinked_since = None
            self._changed()
        return link

    # Those that are there

    def _look_after(self) -> None:
        """Look after the links: a portal that answers no ping is gone, whatever TCP believes.

        Under a request it may only be slow.
        """
        for link in [*self._links, *self._leaving]:
            if link not in self._busy and link.silent_s() > wire.SILENT_S:
                log.warning("a link to the portal is silent: closing it")
                link.abort()
            else:
                link.ping()

    def _shrink(self, too_many: int, now: float) -> None:
        """Take leave of half of those too many, the ones that were idle longest.

        The link says that it leaves and the portal closes it, so that no request is lost that is on its way
        down.
        """
        if too_many <= 0:
            self._roomy_since = None
            return
        self._roomy_since = self._roomy_since or now
        if now - self._roomy_since < SHRINK_S:
            return
        self._roomy_since = now
        idle = sorted((at, id(link), link) for link, at in self._links.items() if link not in self._busy)
        for _, _, link in idle[: (too_many + 1) // 2]:
            del self._links[link]
            self._leaving.add(link)
            link.leave()


class _Opening(asyncio.Protocol):
    """A connection until the portal has said 101; then the tunnel's."""

    def __init__(self, tunnel: Callable[[], Tunnel], host: str, path: str, headers: str) -> None:
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._tunnel = tunnel
        self._key = frames.new_key()
        self._head = (
            f"GET {path} HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {self._key.decode()}\r\n{headers}\r\n"
        )
        self._got = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        watch(transport.get_extra_info("socket"))
        transport.write(self._head.encode("latin-1"))

    def data_received(self, data: bytes) -> None:
        self._got += data
        head, found, rest = self._got.partition(b"\r\n\r\n")
        if not found:
            if len(self._got) > MOST_HEAD:
                self._fail("what answers there is no web server")
            return
        first, *lines = head.split(b"\r\n")
        status = first.split(b" ")[1:2]
        accepted = b"sec-websocket-accept: " + frames.accept_of(self._key).lower()
        if status != [b"101"]:
            said = rest.decode("latin-1")[:300].strip()
            number = int(status[0]) if status and status[0].isdigit() else 0
            self._fail(f"HTTP {number} {said}" if number else f"it answers {first[:60]!r}", number)
            return
        if accepted not in {line.lower() for line in lines}:
            self._fail("it says 101, but not to a WebSocket")
            return
        if self.done.done() or self._transport is None:
            return
        self.done.set_result(None)
        tunnel = self._tunnel()
        self._transport.set_protocol(tunnel)
        tunnel.connection_made(self._transport)
        if rest:
            tunnel.data_received(rest)

    def connection_lost(self, error: Exception | None) -> None:
        self._fail("the connection was closed" if error is None else f"{type(error).__name__}: {error}")

    def _fail(self, why: str, status: int = 0) -> None:
        if not self.done.done():
            self.done.set_exception(Unlinked(why, status))
