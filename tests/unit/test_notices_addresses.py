"""Whom a webhook may call: nobody inside, however the address is written, and whoever was looked at is dialled."""

from __future__ import annotations

import dataclasses
import socket
from typing import Any

import pytest
from django.utils import timezone

from portal.config import config
from portal.notices import post
from portal.notices.addresses import Refused, checked, resolved
from portal.notices.models import Webhook
from portal.notices.post import NotSent, call


@pytest.mark.parametrize(
    "url",
    [
        "http://hooks.example/", "ftp://hooks.example/", "https://", "hooks.example", "https://me:pw@hooks.example/",
        "https://hooks.example/#x", "https://hooks.example/a b", "https://hooks.example/\r\nX: y", "https://h:99999/",
        "https://h:0/", "https://[::1", "javascript:alert(1)", "file:///etc/passwd",
    ],
)  # fmt: skip
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(Refused):
        checked(url, private=False)


@pytest.mark.parametrize(
    "host",
    [
        "127.0.0.1", "10.1.2.3", "192.168.0.1", "172.16.0.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "[::1]",
        "[::]", "[fe80::1]", "[fc00::1]", "[::ffff:10.0.0.1]", "[2002:a00:1::]", "224.0.0.1", "2130706433", "0x7f.1",
        "localhost",
    ],
)  # fmt: skip
def test_nobody_inside_is_called(host: str) -> None:
    with pytest.raises((Refused, OSError)):
        resolved(f"https://{host}/", private=False)


def test_outside_one_may_call() -> None:
    assert resolved("https://93.184.216.34/x", private=False) == ("93.184.216.34", 443)
    assert resolved("https://93.184.216.34:8443/x", private=False)[1] == 8443


def answers(*addresses: str) -> Any:
    return lambda *a, **k: [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (one, 443)) for one in addresses]


def test_one_address_inside_is_one_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.216.34", "10.0.0.1"))
    with pytest.raises(Refused):
        resolved("https://hooks.example/", private=False)


def test_an_address_that_is_found_too_late_is_not_called(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(socket, "getaddrinfo", answers("93.184.216.34"))
    monkeypatch.setattr(post, "LIMIT_S", 0)
    with pytest.raises(NotSent, match="No name server answers"):
        call(Webhook(pk=1, url="https://hooks.example/", created_at=timezone.now()), b"{}", config())


def test_a_name_that_changes_its_mind_gains_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at is what is dialled; nobody asks for the name again."""
    asked, dialled = [], []

    def look_up(*args: Any, **kwargs: Any) -> Any:
        asked.append(args[0])
        return answers("93.184.216.34" if len(asked) == 1 else "127.0.0.1")()

    def dial(address: Any, *args: Any, **kwargs: Any) -> Any:
        dialled.append(address)
        raise ConnectionRefusedError

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    monkeypatch.setattr(socket, "create_connection", dial)
    with pytest.raises(NotSent, match="does not answer"):
        call(
            Webhook(pk=1, url="https://hooks.example/", created_at=timezone.now()),
            b"{}",
            dataclasses.replace(config()),
        )
    assert (asked, dialled) == (["hooks.example"], [("93.184.216.34", 443)])
