"""A world whose people have addresses; real mail and a real receiver of webhooks for them."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_library

from portal.accounts.models import User
from portal.config import Config, config
from portal.config.mail import Mail
from portal.notices.models import Webhook
from portal.redis import hints
from tests import sinks
from tests.api import world as make
from tests.api.world import World
from tests.sinks import Mailbox, Receiver


@pytest.fixture
def world(db: None, redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(hints, "_publish", lambda channel, text: None)
    monkeypatch.setattr(hints, "_send_tick", lambda: None)
    made = make.build()
    for name in ("owner", "mate", "operator", "outsider"):
        User.objects.filter(username=name).update(email=f"{name}@example.org")
    return made


@pytest.fixture
def box(settings: Any) -> Iterator[Mailbox]:
    with sinks.mailbox() as found:
        settings.EMAIL_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
        settings.EMAIL_HOST, settings.EMAIL_PORT = "127.0.0.1", found.port
        yield found


@pytest.fixture
def here(box: Mailbox) -> Config:
    """Give the settings of a site with mail, whose webhooks may go to loopback."""
    return dataclasses.replace(config(), mail=Mail(host="127.0.0.1", port=box.port), webhook_private=True)


@pytest.fixture
def sink() -> Iterator[Receiver]:
    with sinks.receiver() as found:
        yield found


@pytest.fixture
def hook(world: World, sink: Receiver) -> Webhook:
    return Webhook.objects.create(user=world.owner.user, url=sink.url)
