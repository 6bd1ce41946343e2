"""Fixtures of the API tests: a small site, and the wake-ups that were sent."""

from __future__ import annotations

from typing import Any

import pytest

from portal import hints
from portal.celery import app
from tests.api import world as make
from tests.api.world import World


@pytest.fixture
def world(db: None) -> World:
    return make.build()


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Wake-ups as (channel, text); the tick's channel is "tick". Nothing leaves the test."""
    heard: list[tuple[str, str]] = []

    def send_task(name: str, **options: Any) -> None:
        heard.append(("tick", f"{name} expires={options['expires']}"))

    monkeypatch.setattr(hints, "_publish", lambda channel, text: heard.append((channel, text)))
    monkeypatch.setattr(app, "send_task", send_task)
    return heard
