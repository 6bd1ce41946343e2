"""A question to slurmrestd → its answer as JSON, a refusal with Slurm's number, or silence.

Separate from the client, because how an answer is told from silence is the same for every verb
(docs/slurm-clients.md). Uses the standard library's HTTP client, whose socket can be cut at a deadline: a server that
sends one byte now and then holds the loop no longer than one that is dead.
"""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from scheduler.slurm import errors
from scheduler.slurm.errors import Refusal
from scheduler.slurm.jwt import Token, TokenSource
from scheduler.slurm.protocol import NoAnswer
from scheduler.slurm.way import Way

# About 20,000 jobs. What is larger belongs to a cluster that is better asked through Slurm's commands.
MAX_BYTES = 128 * 2**20

Data = dict[str, Any]


class NotFound(NoAnswer):
    """The server serves no such path: another release may have taken its place."""


class _BadToken(Exception):
    """The server did not take the token. The text is what it said."""


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply of slurmrestd: HTTP status and body."""

    status: int
    body: bytes


class RestLink:
    """One slurmrestd to ask. `limit_s` bounds each question, `max_bytes` each answer."""

    def __init__(self, way: Way, limit_s: float, max_bytes: int = MAX_BYTES) -> None:
        self._way = way
        self._limit_s = limit_s
        self._max_bytes = max_bytes
        self._tokens = TokenSource(way, limit_s)
        self._verb = threading.local()

    @contextmanager
    def within_limit(self) -> Iterator[None]:
        """Bound all that this thread asks inside to one limit_s together, the token's command included: a verb that takes
        several questions ends, or sends nothing more, when callers believe that it has."""
        self._verb.ends_at = time.monotonic() + self._limit_s
        try:
            yield
        finally:
            self._verb.ends_at = None

    def _left_s(self, what: str) -> float:
        """Return for how long the next question may last. Raises NoAnswer."""
        ends_at = getattr(self._verb, "ends_at", None)
        left_s = self._limit_s if ends_at is None else ends_at - time.monotonic()
        if left_s <= 0:
            raise NoAnswer(f"{what}: not asked any more: what came before took all of {self._limit_s:g} s")
        return float(left_s)

    @property
    def user(self) -> str:
        """Return the account whose token this is. Raise NoAnswer where that cannot be told."""
        user = self._way.user or self._tokens.get(time.time()).user
        if not user:
            raise NoAnswer(f"{self._way.said}: neither the way nor its token names a user")
        return user

    def ask(self, method: str, path: str, body: Data | None = None, *, document: bool = False) -> Data:
        """Return the answer. A token that the server does not take is renewed once. `document`: a page of the server's
        own, which carries no errors. Raises NoAnswer, NotFound, Refusal."""
        what = self._said(method, path)
        token = self._tokens.get(time.time(), self._left_s(what))
        try:
            return self._judged(method, path, body, token, document)
        except _BadToken as error:
            other = self._tokens.renewed(token, time.time(), self._left_s(what))
            if other is None:
                raise NoAnswer(f"{what}: the token is not accepted: {error}") from None
        try:
            return self._judged(method, path, body, other, document)
        except _BadToken as error:
            raise NoAnswer(f"{what}: a new token is not accepted: {error}") from None

    def _judged(self, method: str, path: str, body: Data | None, token: Token, document: bool) -> Data:
        reply = self._exchange(method, path, body, token)
        return judge(reply, self._said(method, path), document=document)

    def _said(self, method: str, path: str) -> str:
        return f"{self._way.said}: {method} {path.partition('?')[0]}"

    def _exchange(self, method: str, path: str, body: Data | None, token: Token) -> Reply:
        what = self._said(method, path)
        limit_s = self._left_s(what)
        link, base = self._link(what, limit_s)
        headers = {
            "X-SLURM-USER-NAME": self._way.user or token.user,
            "X-SLURM-USER-TOKEN": token.text,
            "Accept": "application/json",
            "Connection": "close",
        }
        payload = None
        if body is not None:
            payload = json.dumps(body).encode()
            headers["Content-Type"] = "application/json"
        deadline = _Deadline(link, limit_s)
        try:
            with deadline:
                link.connect()
                if (
                    deadline.passed
                ):  # there was no socket to cut: a name was looked up, or several addresses tried
                    raise TimeoutError
                link.request(method, base + path, payload, headers)
                answer = link.getresponse()
                text = answer.read(self._max_bytes + 1)
        except (OSError, http.client.HTTPException, ValueError) as error:
            if deadline.passed or isinstance(error, TimeoutError):
                raise NoAnswer(f"{what}: no answer within {self._limit_s:g} s") from None
            raise NoAnswer(f"{what}: {error or type(error).__name__}") from None
        finally:
            link.close()
        if deadline.passed:
            raise NoAnswer(f"{what}: no answer within {self._limit_s:g} s")
        if len(text) > self._max_bytes:
            raise NoAnswer(
                f"{what}: the answer is larger than {self._max_bytes / 2**20:g} MiB: ask so large a cluster "
                "through Slurm's commands (a way of kind cli)"
            )
        return Reply(answer.status, text)

    def _link(self, what: str, limit_s: float) -> tuple[http.client.HTTPConnection, str]:
        """Return the connection, not made yet, and what stands before each path."""
        if self._way.address.startswith("unix:"):
            return _UnixConnection(self._way.address.removeprefix("unix:").replace("//", "", 1), limit_s), ""
        try:
            url = urlsplit(self._way.address)
            host, port = url.hostname, url.port
        except ValueError as error:
            raise NoAnswer(
                f"{what}: its address is neither an http(s) URL nor unix:/path/of/a/socket: {error}"
            ) from None
        if not host or url.scheme not in ("http", "https"):
            raise NoAnswer(f"{what}: its address is neither an http(s) URL nor unix:/path/of/a/socket")
        base = url.path.rstrip("/")
        if url.scheme == "https":
            context = ssl.create_default_context()
            return http.client.HTTPSConnection(host, port, timeout=limit_s, context=context), base
        return http.client.HTTPConnection(host, port, timeout=limit_s), base


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection over the unix socket that slurmrestd was started with."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


class _Deadline:
    """A deadline that cuts a connection, whatever it is doing. The time-outs of sockets are per byte."""

    def __init__(self, link: http.client.HTTPConnection, limit_s: float) -> None:
        self._link = link
        self._timer = threading.Timer(limit_s, self._cut)
        self._timer.daemon = True
        self.passed = False

    def __enter__(self) -> None:
        self._timer.start()

    def __exit__(self, *exc_info: object) -> None:
        self._timer.cancel()

    def _cut(self) -> None:
        self.passed = True
        sock = self._link.sock
        if sock is not None:
            try:
                socket.socket.shutdown(sock, socket.SHUT_RDWR)  # not TLS's own, which another thread is in
            except OSError:
                pass


def judge(reply: Reply, what: str, *, document: bool = False) -> Data:
    """Return the answer of a reply that is one. `what` was asked, for a person. Raises NoAnswer, NotFound, Refusal."""
    if reply.status in errors.TOKEN:
        raise _BadToken(f"HTTP {reply.status}")
    try:
        data = json.loads(reply.body)
    except ValueError:
        data = None
    found = data.get("errors", [] if document else None) if isinstance(data, dict) else None
    if not isinstance(data, dict) or not isinstance(found, list):
        if reply.status == 404:
            raise NotFound(f"{what}: HTTP 404: the server knows no such path")
        raise NoAnswer(f"{what}: HTTP {reply.status}, and no JSON of slurmrestd's: {_start(reply.body)!r}")
    if reply.status == 200 and not found:
        return data
    said = [error for error in found if isinstance(error, dict)]
    numbers = [_number(error) for error in said]
    if errors.TOKEN.intersection(numbers):
        raise _BadToken(_reason(said[0]))
    text = "; ".join(dict.fromkeys(map(_reason, said)))
    if numbers and all(errors.meaning(number) != "unheard" for number in numbers):
        raise Refusal(numbers[0], _with_message(text, data))
    if reply.status == 404:
        raise NotFound(f"{what}: HTTP 404: {text or 'the server knows no such path'}")
    raise NoAnswer(f"{what}: HTTP {reply.status}: {text or 'it says no more'}")


def _number(error: Data) -> int:
    number = error.get("error_number")
    return number if isinstance(number, int) else 0


def _reason(error: Data) -> str:
    """Return Slurm's own words first: they are what the three clients have in common."""
    text = error.get("error") or errors.words(_number(error))
    return " ".join(str(text).split())[:300]


def _with_message(text: str, data: Data) -> str:
    """Add what a site's job_submit plugin told the user to Slurm's own words."""
    message = data.get("job_submit_user_msg")
    return f"{text} ({' '.join(message.split())[:300]})" if isinstance(message, str) and message else text


def _start(body: bytes) -> str:
    return " ".join(body[:200].decode(errors="replace").split())
