"""A link that another process holds → lent to this one for one request, and the other way round.

The bytes of a request go through the process that holds the pilot's link, unread, in both directions, with the flow
control of the links themselves; the borrower speaks HTTP over them as over a link of its own. Connections between
gateways are kept and carry one borrowing after the other. The frames are those of the links: bytes are the stream,
texts say whose link is wanted and when it is given back.

    B  berth-relay 1 <nonce>                      on a private unix socket, or BERTH_RELAY_ADDRESS between hosts
    A  hello <nonce> <proof>    B  hello <proof>  both know the site key, which neither says
    A  take <pilot>             B  taken | none
    …  bytes …                  A  done           the connection closed instead: so is the link

A relay that does not answer costs its asker a second, and is not asked for some more.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from gpuworker import wire
from gpuworker.wire import Tunnel
from portal.transport.lender import HELLO, Lender, proof
from portal.transport.link import Link

log = logging.getLogger(__name__)

ANSWER_S = 1.0
SHUN_S = 3.0
KEPT = 64  # idle connections to one relay
UNPROVED = 64  # connections whose other end has not proved itself yet


class NotLent(OSError):
    """The error that the relay does not answer, or is none of ours."""


class Relay:
    """The lending and the borrowing of one process. `offers` first, then `start`; `borrow` and `give_back`; `stop`."""

    def __init__(self, site_key: bytes, where: str = "") -> None:
        """Keep where to listen: "" for a unix socket; else host or host:first-last."""
        self._key = wire.derive_key(site_key, "relay", "").encode()
        self._where = where
        self._folder: Path | None = None
        self._server: asyncio.Server | None = None
        self._lenders: dict[Lender, None] = {}  # in the order of their coming
        self._kept: dict[str, list[_Borrower]] = {}
        self._lent: dict[Link, _Borrower] = {}
        self._shunned: dict[str, float] = {}
        self._idle_of: Callable[[str], Link | None] = lambda _pilot: None
        self._back: Callable[[str, Link], None] = lambda _pilot, link: link.close()
        self.address = ""

    def offers(self, idle_of: Callable[[str], Link | None], back: Callable[[str, Link], None]) -> None:
        self._idle_of, self._back = idle_of, back

    async def start(self) -> None:
        """Listen. Raise OSError when the address cannot be had."""
        loop = asyncio.get_running_loop()
        if not self._where:
            self._folder = Path(tempfile.mkdtemp(prefix="berth-relay-", dir=_short_folder()))  # 0700
            self.address = f"unix:{self._folder}/relay"
            self._server = await loop.create_unix_server(self._lender, str(self._folder / "relay"))
            return
        host, ports = listening(self._where)
        for port in ports:
            try:
                self._server = await loop.create_server(self._lender, host, port)
            except OSError as error:
                if port == ports[-1]:
                    raise OSError(f"BERTH_RELAY_ADDRESS={self._where}: {error}") from None
                continue
            break
        assert self._server is not None
        bound = self._server.sockets[0].getsockname()[1]
        self.address = f"tcp:[{host}]:{bound}" if ":" in host else f"tcp:{host}:{bound}"

    async def stop(self) -> None:
        if self._server is not None:
            self._server.close()
        for lender in list(self._lenders):
            lender.close()
        for kept in self._kept.values():
            for borrower in kept:
                borrower.close()
        self._kept.clear()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _lender(self) -> Tunnel:
        """Take a connection in. Bear some who prove nothing for a moment: the address may be one that all can reach."""
        unproved = [lender for lender in self._lenders if not lender.proved]
        for oldest in unproved[: max(0, len(unproved) - UNPROVED + 1)]:
            oldest.close()
            self._lenders.pop(oldest, None)
        lender = Lender(self._key, self._idle_of, self._back)
        self._lenders[lender] = None
        return lender.tunnel(lambda: self._lenders.pop(lender, None))

    # The borrower's side

    async def borrow(self, pilot: str, addresses: Sequence[str]) -> Link | None:
        """Return a link of the pilot that another process has idle; None where there is none at these addresses."""
        now = time.monotonic()
        usable = [address for address in addresses if self._shunned.get(address, 0.0) <= now]
        for address in random.sample(usable, len(usable)):
            try:
                borrower = await self._connected(address)
                try:
                    taken = await borrower.take(pilot)
                except BaseException:
                    borrower.close()
                    raise
            except Exception as error:  # noqa: BLE001 - whatever a peer says, or Redis of it: others are asked
                log.info("relay %s: %s: %s", address, type(error).__name__, error)
                self._shun(address)
                continue
            if taken:
                self._lent[borrower.link] = borrower
                return borrower.link
            self._keep(borrower)
        return None

    def give_back(self, link: Link) -> None:
        """Give the link that `borrow` returned to its process if it may be used again; else close it."""
        borrower = self._lent.pop(link)
        if not link.usable:
            borrower.close()
            return
        borrower.say_done()
        self._keep(borrower)

    def _keep(self, borrower: _Borrower) -> None:
        kept = self._kept.setdefault(borrower.address, [])
        if len(kept) < KEPT and borrower.link.usable:
            kept.append(borrower)
        else:
            borrower.close()

    def _shun(self, address: str) -> None:
        now = time.monotonic()
        self._shunned = {at: until for at, until in self._shunned.items() if until > now}
        self._shunned[address] = now + SHUN_S
        for borrower in self._kept.pop(address, ()):
            borrower.close()

    async def _connected(self, address: str) -> _Borrower:
        kept = self._kept.get(address)
        while kept:
            borrower = kept.pop()
            if borrower.link.usable:
                return borrower
            borrower.close()
        self._kept.pop(address, None)
        borrower = _Borrower(address, self._key)
        async with asyncio.timeout(ANSWER_S):
            await borrower.connect()
        return borrower


class _Borrower:
    """A connection to another process's relay, from the asking end."""

    def __init__(self, address: str, key: bytes) -> None:
        self.address = address
        self.link = Link()
        self._key = key
        self._nonce = secrets.token_hex(8)
        self._expected = ""
        self._said: asyncio.Future[str] | None = None
        self._tunnel = Tunnel(self.link, client=None, on_text=self._hear, on_lost=self._lost)

    async def connect(self) -> None:
        """Connect, and prove to each other. Raise OSError, TimeoutError; NotLent when it does not know the site key."""
        loop = asyncio.get_running_loop()
        self._said = loop.create_future()
        kind, _, at = self.address.partition(":")
        if kind == "unix":
            await loop.create_unix_connection(lambda: self._tunnel, at)
        else:
            host, _, port = at.rpartition(":")
            await loop.create_connection(lambda: self._tunnel, host.strip("[]"), int(port))
        try:
            hello = await self._said
            if not hello.startswith(HELLO):
                raise NotLent("no relay")
            theirs = hello.removeprefix(HELLO)
            shown = await self._asked(f"hello {self._nonce} {proof(self._key, 'asks', theirs, self._nonce)}")
            expected = f"hello {proof(self._key, 'lends', self._nonce, theirs)}"
            if not hmac.compare_digest(shown.encode(), expected.encode()):
                raise NotLent("not ours")
        except BaseException:
            self.close()
            raise

    async def take(self, pilot: str) -> bool:
        """Return whether a link of the pilot was lent. Raise OSError, TimeoutError."""
        async with asyncio.timeout(ANSWER_S):
            return await self._asked(f"take {pilot}") == "taken"

    def say_done(self) -> None:
        self._tunnel.say("done")

    def close(self) -> None:
        self._tunnel.abort()

    async def _asked(self, text: str) -> str:
        if self._tunnel.lost:
            raise NotLent("closed")
        self._said = asyncio.get_running_loop().create_future()
        self._tunnel.say(text)
        return await self._said

    def _hear(self, text: str) -> None:
        if self._said is not None and not self._said.done():
            self._said.set_result(text)

    def _lost(self) -> None:
        if self._said is not None and not self._said.done():
            self._said.set_exception(NotLent("closed"))


def listening(where: str) -> tuple[str, range]:
    """Return the host and the ports to try of host, [host]:port or host:first-last. Raise ValueError."""
    host, ports = where, ""
    if where.startswith("["):
        host, _, ports = where[1:].partition("]")
        ports = ports.removeprefix(":")
    elif where.count(":") == 1:
        host, _, ports = where.partition(":")
    if not ports:
        return host, range(1)
    first, _, last = ports.partition("-")
    try:
        span = range(int(first), int(last or first) + 1)
    except ValueError:
        span = range(0)
    if not host or not span or not 0 < span[0] <= span[-1] < 65536:
        raise ValueError(
            f"BERTH_RELAY_ADDRESS={where!r} is no address like 10.0.0.5, [fd00::5] or 10.0.0.5:20000-20010"
        )
    return host, span


def _short_folder() -> str | None:
    """Return a folder for a unix socket, whose name has at most 107 bytes; None: the usual one."""
    return None if len(os.fsencode(tempfile.gettempdir())) < 70 else "/tmp"
