"""A provider, set up as the site's, and who came through it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis as redis_library
from django.test import Client

from portal.accounts.models import User
from portal.config import config
from tests import oidc
from tests.oidc import Idp


@pytest.fixture(scope="module")
def server() -> Iterator[Idp]:
    with oidc.running() as idp:
        yield idp


@pytest.fixture
def idp(server: Idp, monkeypatch: pytest.MonkeyPatch, redis: redis_library.Redis) -> Iterator[Idp]:
    oidc.configure(monkeypatch, server)
    yield server
    monkeypatch.undo()
    config.cache_clear()


def who(browser: Client) -> str:
    """Return who is logged in, "" for nobody."""
    key = browser.session.get("_auth_user_id")
    return User.objects.get(pk=key).username if key else ""


def let_in(name: str) -> None:
    user = User.objects.get(username=name)
    user.is_active = True
    user.save()
