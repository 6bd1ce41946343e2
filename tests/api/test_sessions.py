"""How long a browser stays logged in: ended on the server when it was not used, or after all too long."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.db import connection
from django.test.utils import CaptureQueriesContext

from portal.accounts import sessions
from portal.config import config
from tests.api.world import World


@pytest.fixture
def at(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Move the clock of sessions' ages."""
    begun = 1_000_000.0
    now = [begun]

    class Clock:
        time = staticmethod(lambda: now[0])

    monkeypatch.setattr(sessions, "time", Clock)

    def move(seconds: float) -> None:
        now[0] = begun + seconds

    return move


def test_unused_for_long_it_ends_on_the_server(world: World, at: Any) -> None:
    browser = world.owner.browser
    at(config().session_idle_s - 1)
    assert browser.get("/tokens/").status_code == 200
    at(2 * config().session_idle_s - 2)
    assert browser.get("/tokens/").status_code == 200
    at(3 * config().session_idle_s)
    assert browser.get("/tokens/").status_code == 302
    assert not Session.objects.exists()


def test_what_an_open_window_asks_by_itself_is_no_use(world: World, at: Any) -> None:
    browser = world.owner.browser
    for part in (0.3, 0.6, 0.9):
        at(part * config().session_idle_s)
        assert browser.get("/fragments/home", headers={"HX-Request": "true"}).status_code == 200
    at(1.1 * config().session_idle_s)
    assert browser.get("/fragments/home", headers={"HX-Request": "true"}).status_code == 302


def test_used_all_the_time_it_ends_all_the_same(world: World, at: Any) -> None:
    browser = world.owner.browser
    step = config().session_idle_s / 2
    asked = 0.0
    while asked + step < config().session_most_s:
        asked += step
        at(asked)
        assert browser.get("/tokens/").status_code == 200, asked
    at(config().session_most_s + 1)
    assert browser.get("/tokens/").status_code == 302


def test_the_api_ends_with_it(world: World, at: Any) -> None:
    browser = world.owner.browser
    at(config().session_idle_s + 1)
    assert browser.get("/api/v1/models").status_code == 401


def test_use_is_written_down_once_a_minute(world: World, at: Any) -> None:
    browser = world.owner.browser
    # The session's row, the person's, and what the site lacks; and, in a savepoint, the writing.
    for seconds, queries, writes in ((59, 3, 0), (61, 6, 1), (62, 3, 0)):
        at(seconds)
        with CaptureQueriesContext(connection) as asked:
            browser.get("/login/waiting/nothing")
        written = [query for query in asked.captured_queries if query["sql"].startswith("UPDATE")]
        assert (len(asked), len(written)) == (queries, writes)
        assert all("django_session" in query["sql"] for query in written)
