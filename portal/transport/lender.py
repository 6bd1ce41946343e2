"""A connection from another gateway → links of this one, lent to it one after the other: the answering end of a relay.

Separate from `relay`, which asks: this end knows neither addresses nor what is asked of a pilot. The words are there.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import secrets
from collections.abc import Callable
from typing import Literal

from gpuworker.wire import Tunnel, watch
from portal.transport.link import Link

log = logging.getLogger(__name__)

HELLO = "berth-relay 1 "
PROVE_S = 2.0  # a gateway takes milliseconds, and waits for one second itself


class Lender:
    """The lending end of a connection from another process, which borrows one link after the other."""

    def __init__(
        self, key: bytes, idle_of: Callable[[str], Link | None], back: Callable[[str, Link], None]
    ) -> None:
        self._key = key
        self._idle_of = idle_of
        self._back = back
        self._nonce = secrets.token_hex(8)
        self.proved = False
        self._deadline: asyncio.TimerHandle | None = None
        self._pilot = ""
        self._link: Link | None = None
        self._near: Tunnel | None = None  # to the borrower
        self._far: Tunnel | None = None  # to the agent

    def tunnel(self, lost: Callable[[], object]) -> Tunnel:
        def gone() -> None:
            lost()
            self._end_of_patience()
            if self._far is not None:
                self._far.abort()  # the borrower went away under a request: so does the engine's work

        self._near = Tunnel(
            _Pass(lambda: self._far, self._greet), client=None, on_text=self._hear, on_lost=gone
        )
        return self._near

    def close(self) -> None:
        if self._near is not None:
            self._near.abort()

    def _greet(self) -> None:
        assert self._near is not None
        # A host that loses power says nothing, and a connection that is lent nothing is not missed by anybody.
        if (sock := self._near.get_extra_info("socket")) is not None:
            watch(sock)
        self._deadline = asyncio.get_running_loop().call_later(PROVE_S, self._near.abort)
        self._near.say(HELLO + self._nonce)

    def _end_of_patience(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()

    def _hear(self, text: str) -> None:
        assert self._near is not None
        verb, _, rest = text.partition(" ")
        if not self.proved:
            theirs, _, shown = rest.partition(" ")
            expected = proof(self._key, "asks", self._nonce, theirs)
            if verb != "hello" or not hmac.compare_digest(shown.encode(), expected.encode()):
                log.warning("somebody who does not know the site key spoke to the relay")
                self._near.abort()
                return
            self.proved = True
            self._end_of_patience()
            self._near.say(f"hello {proof(self._key, 'lends', theirs, self._nonce)}")
        elif verb == "take" and self._link is None:
            self._near.say("taken" if self._lend(rest) else "none")
        elif verb == "done" and self._link is not None:
            self._take_back()
        else:
            self._near.abort()

    def _lend(self, pilot: str) -> bool:
        link = self._idle_of(pilot)
        if link is None:
            return False
        far = link.transport
        assert isinstance(far, Tunnel)
        self._pilot, self._link, self._far = pilot, link, far
        far.set_protocol(_Pass(lambda: self._near, None))
        return True

    def _take_back(self) -> None:
        assert self._link is not None and self._far is not None
        link, far = self._link, self._far
        self._link = self._far = None
        far.set_protocol(link)
        far.resume_reading()
        if far.is_closing():
            link.close()
        self._back(self._pilot, link)


class _Pass(asyncio.Protocol):
    """One direction: what comes here goes there, as fast as there takes it. The end of one is the end of both."""

    def __init__(self, there: Callable[[], Tunnel | None], greet: Callable[[], None] | None) -> None:
        self._there = there
        self._greet = greet
        self._here: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, Tunnel)
        self._here = transport
        if self._greet is not None:
            self._greet()

    def data_received(self, data: bytes) -> None:
        if (there := self._there()) is not None:
            there.write(data)
        elif self._here is not None:
            self._here.abort()  # it speaks before it has been lent anything

    def pause_writing(self) -> None:
        if (there := self._there()) is not None:
            there.pause_reading()

    def resume_writing(self) -> None:
        if (there := self._there()) is not None:
            there.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        if (there := self._there()) is not None:
            there.close()  # after what has come has been passed on


def proof(key: bytes, who: Literal["asks", "lends"], *nonces: str) -> str:
    return hmac.new(key, " ".join((who, *nonces)).encode(), "sha256").hexdigest()
