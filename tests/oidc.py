"""A real OpenID provider on loopback, and a person's way through it, for the tests of single sign-on."""

from __future__ import annotations

import contextlib
import re
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from html import unescape
from typing import Any
from urllib.parse import quote, urlsplit

import oidc_provider_mock
import pytest
import requests
from django.test import Client
from werkzeug.serving import make_server

from portal.config import config
from portal.config.oidc import Provider

SECRET = "canary-of-the-client-secret"


@dataclass(frozen=True, slots=True)
class Idp:
    """A running provider. It believes whatever subject it is told; people have the claims of `person`."""

    issuer: str

    @property
    def id(self) -> str:
        return Provider(self.issuer, "", "").id

    def person(self, subject: str, **claims: Any) -> None:
        requests.put(f"{self.issuer}/users/{quote(subject)}", json=claims, timeout=10).raise_for_status()

    def begin(self, browser: Client, next: str = "") -> str:
        """Begin, and return where the browser is sent."""
        page = browser.post(f"/login/with/{self.id}/", {"next": next})
        found = re.search(r'content="0; url=([^"]+)"', page.content.decode())
        assert page.status_code == 200 and found, page.status_code
        return unescape(found[1])

    def decide(self, to: str, subject: str = "", **form: str) -> str:
        """Log in there, and return the way back, as address of the site."""
        answer = requests.post(to, {"sub": subject} | form, allow_redirects=False, timeout=10)
        back = urlsplit(answer.headers["Location"])
        assert (back.scheme, back.netloc) == ("http", "testserver")
        return f"{back.path}?{back.query}"

    def log_in(self, browser: Client, subject: str, next: str = "") -> Any:
        return browser.get(self.decide(self.begin(browser, next), subject))


@contextlib.contextmanager
def running() -> Iterator[Idp]:
    # Not its own run_server_in_thread, which gives a busy machine a second to stop it.
    server = make_server("localhost", 0, oidc_provider_mock.app(), threaded=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield Idp(f"http://localhost:{server.server_port}")
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def configure(monkeypatch: pytest.MonkeyPatch, idp: Idp, number: str = "", **more: str) -> None:
    """Set the environment as an administrator would; undone with the monkeypatch, but see `forget`."""
    said = {"ISSUER": idp.issuer, "CLIENT_ID": "berth", "CLIENT_SECRET": SECRET, "NAME": "Campus"} | more
    for name, value in said.items():
        monkeypatch.setenv(f"BERTH_OIDC{number}_{name}", value)
    config.cache_clear()
