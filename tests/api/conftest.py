"""Fixtures of the API tests: a small site, and the wake-ups that were sent."""

from __future__ import annotations

import pytest

from portal.redis import hints
from tests.api import world as make
from tests.api.world import World


@pytest.fixture
def world(db: None) -> World:
    return make.build()


@pytest.fixture(autouse=True)
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Record wake-ups as (channel, text); the tick's channel is "tick". Nothing leaves the test."""
    heard: list[tuple[str, str]] = []

    monkeypatch.setattr(hints, "_publish", lambda channel, text: heard.append((channel, text)))
    monkeypatch.setattr(hints, "_send_tick", lambda: heard.append(("tick", "look")))
    return heard
