"""A delivery → out of the house, over SMTP or HTTP. Raises `NotSent` with what to write beside it.

The webhook's call is our own few lines over http.client: it dials the address that was checked, follows no redirect,
obeys no proxy of the environment, reads no body, and ends after `LIMIT_S` whatever the other side does; only the look
for its address is the system's, and may take longer. Nothing here knows the database: it runs in threads.
"""

from __future__ import annotations

import hashlib
import hmac
import http.client
import json
import smtplib
import socket
import ssl
import threading
import time
from urllib.parse import urlsplit

from django.core.mail import EmailMessage

from portal.config import Config
from portal.notices.addresses import Refused, resolved
from portal.notices.models import Delivery, Webhook

LIMIT_S = 10.0
_OF_ONE = (
    smtplib.SMTPRecipientsRefused,
    smtplib.SMTPSenderRefused,
    smtplib.SMTPDataError,
)  # the server is there


class NotSent(Exception):
    """A delivery that failed. `is_final`: trying again is no use. `is_silent`: nobody was there, so others on this
    way would fare alike."""

    def __init__(self, why: str, *, is_final: bool = False, is_silent: bool = False) -> None:
        super().__init__(why)
        self.is_final, self.is_silent = is_final, is_silent


def post(delivery: Delivery, config: Config) -> None:
    if delivery.webhook is not None:
        call(delivery.webhook, payload(delivery), config)
    else:
        _mail(delivery, config)


def payload(delivery: Delivery) -> bytes:
    """Return what a webhook is sent. The id is the same in every attempt."""
    said = {
        "id": delivery.pk,
        "kind": delivery.kind,
        "at": delivery.created_at.isoformat(),
        "subject": delivery.subject,
        "text": delivery.text,
        "data": delivery.data,
    }
    return json.dumps(said).encode()


def signature(secret: str, at: int, body: bytes) -> str:
    """Return the signature of `<seconds since 1970>.<body>`, as the header X-Berth-Signature holds it."""
    digest = hmac.new(secret.encode(), b"%d." % at + body, hashlib.sha256).hexdigest()
    return f"t={at},v1={digest}"


def call(hook: Webhook, body: bytes, config: Config) -> None:
    ends = time.monotonic() + LIMIT_S
    try:
        address, port = resolved(hook.url, config.webhook_private)
    except Refused as error:
        raise NotSent(str(error), is_final=True) from None
    except OSError as error:
        raise NotSent(f"The host is not known: {error.strerror}", is_silent=True) from None
    left_s = ends - time.monotonic()
    if left_s <= 0:
        raise NotSent("No name server answers.", is_silent=True)
    parts = urlsplit(hook.url)
    assert parts.hostname is not None
    link = _Dialled(parts.hostname, address, port, parts.scheme == "https")
    cut = threading.Timer(left_s, link.cut)
    cut.start()
    try:
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "Berth",
            "X-Berth-Signature": signature(hook.secret, int(time.time()), body),
        }
        link.request("POST", f"{parts.path or '/'}{'?' + parts.query if parts.query else ''}", body, headers)
        status = link.getresponse().status
    except (OSError, http.client.HTTPException) as error:
        raise NotSent(f"It does not answer: {type(error).__name__}", is_silent=True) from None
    finally:
        cut.cancel()
        link.close()
    if 300 <= status < 400:
        raise NotSent(f"It answered {status}; redirects are not followed.")
    if status >= 400:
        raise NotSent(f"It answered {status}.")


class _Dialled(http.client.HTTPConnection):
    """A connection to an address that was chosen, in the name of a host."""

    def __init__(self, host: str, address: str, port: int, is_tls: bool) -> None:
        super().__init__(host, port, timeout=LIMIT_S)
        self._address, self._is_tls, self._cut = address, is_tls, False
        if is_tls:
            self.default_port = 443

    def connect(self) -> None:
        self.sock = socket.create_connection((self._address, self.port), LIMIT_S)
        if self._is_tls:
            self.sock = ssl.create_default_context().wrap_socket(self.sock, server_hostname=self.host)
        if self._cut:
            raise TimeoutError

    def cut(self) -> None:
        self._cut = True
        link = self.sock
        if link is not None:
            try:
                link.shutdown(socket.SHUT_RDWR)
            except OSError:
                return  # it is closed already


def _mail(delivery: Delivery, config: Config) -> None:
    user = delivery.user
    if user is None or not user.email or not user.is_active or not config.mail.host:
        raise NotSent("There is no address to send it to.", is_final=True)
    more = (
        f"\n\n{delivery.data['page']}" if "page" in delivery.data else ""
    )  # not in what stood before an update
    text = f"{delivery.text}{more}\n\n-- \nBerth. Choose which mails you get: {config.site}/notices/\n"
    try:
        EmailMessage(" ".join(delivery.subject.split()), text, to=[user.email]).send()
    except OSError as error:
        raise NotSent(
            f"The mail server: {type(error).__name__}", is_silent=not isinstance(error, _OF_ONE)
        ) from None
