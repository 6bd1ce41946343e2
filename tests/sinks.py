"""Where notices go in tests: a real SMTP server and a real receiver of webhooks, on loopback."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email import message_from_bytes
from email.header import decode_header, make_header
from email.message import Message
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from aiosmtpd.controller import Controller
from devstack.ports import free_port


@dataclass
class Mailbox:
    port: int
    mails: list[Message] = field(default_factory=list)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        self.mails.append(message_from_bytes(envelope.content))
        return "250 OK"

    def subjects(self, to: str) -> list[str]:
        """Return the subjects of all that this address got, oldest first."""
        found = [mail["Subject"] for mail in self.mails if mail["To"] == to]
        return [str(make_header(decode_header(subject))) for subject in found]


@contextlib.contextmanager
def mailbox() -> Iterator[Mailbox]:
    box = Mailbox(free_port())
    server = Controller(box, hostname="127.0.0.1", port=box.port, ready_timeout=60)
    server.start()
    try:
        yield box
    finally:
        server.stop()


@dataclass(frozen=True)
class Got:
    path: str
    headers: dict[str, str]
    body: bytes


class Receiver:
    """A receiver of webhooks.

    `next`: what it does with the coming calls, in order; after that it answers 200.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.got: list[Got] = []
        self.next: list[Callable[[BaseHTTPRequestHandler], None]] = []
        self.released = threading.Event()


def says(status: int, **headers: str) -> Callable[[BaseHTTPRequestHandler], None]:
    def act(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name, value)
        handler.end_headers()

    return act


@contextlib.contextmanager
def receiver() -> Iterator[Receiver]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            sink.got.append(Got(self.path, dict(self.headers), body))
            (sink.next.pop(0) if sink.next else says(200))(self)

        def log_message(self, format: str, *args: Any) -> None:
            """Log nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    sink = Receiver(f"http://127.0.0.1:{server.server_port}/hook?a=b")
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield sink
    finally:
        sink.released.set()
        server.shutdown()
        thread.join()
        server.server_close()


def is_ours(got: Got, secret: str) -> bool:
    """Check a call as somebody would who knows docs/notices.md only."""
    parts = dict(part.split("=", 1) for part in got.headers["X-Berth-Signature"].split(","))
    expected = hmac.new(secret.encode(), parts["t"].encode() + b"." + got.body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, parts["v1"]) and abs(time.time() - int(parts["t"])) < 300
