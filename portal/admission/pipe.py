"""Commands to Redis → one write for all that one turn of the event loop asks; answers → whoever waits, in order.

One connection per process, and no task per command: under load many requests share a write, and a command that
fails fails alone. Instead of redis-py's connections, which cost more than the questions (decisions/0010); the
parsing and packing are hiredis'. Raises QueueDown when Redis does not answer.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import hiredis
from redis.asyncio.connection import SSLConnection, parse_url

from portal.admission.scripts import SCRIPTS, Command

log = logging.getLogger(__name__)

ANSWER_S = 3.0  # of silence while an answer is due; then the connection is given up
CONNECT_S = 2.0
_MORE = object()  # the parser's word for "not yet"


class QueueDown(Exception):
    """The error that Redis did not answer, or answered with an error."""


class _Ask(NamedTuple):
    """A command as it travels. Nobody waits for an `answer` of None."""

    packed: bytes
    answer: asyncio.Future[Any] | None
    again: bool = False  # sent a second time, with the scripts before it


class Pipe:
    """The connection of this process: `ask`, or `tell` where nobody waits. It connects when it has something to send."""

    def __init__(self, url: str) -> None:
        self._options: dict[str, Any] = dict(parse_url(url))
        self._leaving: list[_Ask] = []  # with the end of this turn of the loop, or once there is a connection
        self._link: _Link | None = None
        self._connecting: asyncio.Task[None] | None = None
        self.down_since: float | None = None  # monotonic; None while Redis answers

    def ask(self, command: Command) -> asyncio.Future[Any]:
        """Send a command and return its answer to be, which raises QueueDown, also where Redis answers with an error."""
        answer: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._leave(_Ask(_packed(command), answer))
        return answer

    def tell(self, command: Command) -> None:
        """Send a command of which nobody learns whether it arrived, but `down_since`."""
        self._leave(_Ask(_packed(command), None))

    async def close(self) -> None:
        """Close the connection after what was sent has been answered, if it still can be."""
        try:
            if self._leaving or (self._link is not None and not self._link.lost):
                await asyncio.wait_for(self.ask(("PING",)), ANSWER_S)
        except (QueueDown, TimeoutError) as error:
            log.info("at the end: %r", error)
        if self._link is not None:
            self._link.close()

    def _leave(self, ask: _Ask) -> None:
        if not self._leaving:
            asyncio.get_running_loop().call_soon(self._flush)
        self._leaving.append(ask)

    def _flush(self) -> None:
        if self._connecting is not None or not self._leaving:
            return
        if self._link is None or self._link.lost:
            self._connecting = asyncio.create_task(self._connect(), name="redis-connect")
            return
        asks, self._leaving = self._leaving, []
        self._link.send(asks)

    async def _connect(self) -> None:
        try:
            async with asyncio.timeout(CONNECT_S):
                self._link = await self._dial()
        except (OSError, TimeoutError, QueueDown) as error:
            asks, self._leaving = self._leaving, []
            self._failed(asks, f"{type(error).__name__}: {error}")
        finally:
            self._connecting = None
        self._flush()

    async def _dial(self) -> _Link:
        loop, options = asyncio.get_running_loop(), self._options
        link = _Link(self._failed, self._heard)
        if path := options.get("path"):
            await loop.create_unix_connection(lambda: link, path)
        else:
            host, port = options.get("host", "localhost"), options.get("port", 6379)
            await loop.create_connection(lambda: link, host, port, ssl=_tls(options))
        first: list[Command] = []
        if password := options.get("password"):
            user = options.get("username")
            first.append(("AUTH", user, password) if user else ("AUTH", password))
        if database := options.get("db"):
            first.append(("SELECT", database))
        answers = [loop.create_future() for _ in first]
        link.send([_Ask(_packed(c), a) for c, a in zip(first, answers, strict=True)])
        try:
            await asyncio.gather(*answers)
        except BaseException:
            link.close()
            raise
        return link

    def _heard(self) -> None:
        self.down_since = None

    def _failed(self, asks: Iterable[_Ask], why: str) -> None:
        self.down_since = self.down_since or time.monotonic()
        for ask in asks:
            if ask.answer is not None and not ask.answer.done():
                ask.answer.set_exception(QueueDown(f"Redis: {why}"))


class _Link(asyncio.Protocol):
    """One connection: what was sent over it and has no answer yet."""

    def __init__(self, failed: Any, heard: Any) -> None:
        self.lost = False
        self._failed = failed
        self._heard = heard
        self._due: deque[_Ask] = deque()
        self._reader = hiredis.Reader(notEnoughData=_MORE)
        self._transport: Any = None
        self._heard_at = 0.0
        self._timer: asyncio.TimerHandle | None = None

    def send(self, asks: Sequence[_Ask]) -> None:
        if not asks:
            return
        loop = asyncio.get_running_loop()
        if not self._due:
            self._heard_at = loop.time()
            if self._timer is None:
                self._timer = loop.call_later(ANSWER_S, self._look, loop)
        self._due.extend(asks)
        self._transport.write(asks[0].packed if len(asks) == 1 else b"".join([ask.packed for ask in asks]))

    def close(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Give the connection up if it was silent for too long. A timer per command would cost more than commands do."""
        self._timer = None
        if not self._due:
            return
        left_s = self._heard_at + ANSWER_S - loop.time()
        if left_s <= 0:
            self._lose(f"no answer for {ANSWER_S:.0f} s")
        else:
            self._timer = loop.call_later(left_s, self._look, loop)

    def _lose(self, why: str) -> None:
        """Fail what is due. It may have happened or not: it is never asked again from here."""
        self.lost = True
        due, self._due = self._due, deque()
        self._failed(due, why)
        self.close()

    # The transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def connection_lost(self, error: Exception | None) -> None:
        if not self.lost:
            self._lose("the connection was closed" if error is None else type(error).__name__)
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._heard_at = asyncio.get_running_loop().time()
        unknown: list[_Ask] = []
        try:
            self._reader.feed(data)
            while (answer := self._reader.gets()) is not _MORE:
                ask = self._due.popleft()
                if isinstance(answer, hiredis.ReplyError):
                    if str(answer).startswith("NOSCRIPT") and not ask.again:
                        unknown.append(ask._replace(again=True))
                    elif ask.answer is not None and not ask.answer.done():
                        ask.answer.set_exception(QueueDown(f"Redis: {answer}"))
                elif ask.answer is not None and not ask.answer.done():  # done: its caller was cancelled
                    ask.answer.set_result(answer)
        except (hiredis.ProtocolError, IndexError) as error:
            self._lose(f"not an answer: {type(error).__name__}")
            return
        self._heard()
        if unknown:
            self.send([*_LOADS, *unknown])


def _packed(command: Command) -> bytes:
    packed: bytes = hiredis.pack_command(command)  # type: ignore[arg-type]  # it is typed as for one part
    return packed


_LOADS = [_Ask(_packed(("SCRIPT", "LOAD", script.text)), None) for script in SCRIPTS.values()]


def _tls(options: dict[str, Any]) -> ssl.SSLContext | None:
    """Return the TLS context that redis-py reads from the URL (rediss://…?ssl_ca_certs=…), or None."""
    if options.get("connection_class") is not SSLConnection:
        return None
    tls = {name: value for name, value in options.items() if name.startswith("ssl_")}
    return SSLConnection(**tls).ssl_context.get()
