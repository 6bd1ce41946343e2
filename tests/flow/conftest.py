"""Fixtures of the flow tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis as redis_library
from django.db import connections
from django.test import Client
from psycopg2.extensions import connection as Connection

from portal.accounts.models import User
from tests.flow import dataplane, running_portal
from tests.flow.dataplane import Plane, Seeded
from tests.flow.running_portal import Portal


@pytest.fixture
def seeded(transactional_db: None) -> Seeded:
    return dataplane.seed()


@pytest.fixture
def link(request: pytest.FixtureRequest) -> str:
    """Return who opens the connections between gateway and ingress; `dataplane.both_links` asks for
    either."""
    return str(getattr(request, "param", "direct"))


@pytest.fixture
async def plane(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis, link: str
) -> AsyncIterator[Plane]:
    """Start the data plane with a fake ingress, nothing routed yet."""
    async with dataplane.running(seeded, test_dsn, pg, redis, link=link) as plane:
        yield plane
        assert dataplane.undeclared(redis) == [], "a key that portal/redis/keys.py does not declare so"


@pytest.fixture
async def portal(plane: Plane, tmp_path: Path) -> AsyncIterator[Portal]:
    async with running_portal.running(plane, tmp_path) as portal:
        yield portal


@pytest.fixture
def session(seeded: Seeded) -> str:
    """Return the cookie of the seeded person's browser."""
    client = Client()
    client.force_login(User.objects.get(pk=seeded.user))
    return client.cookies["sessionid"].value


@pytest.fixture
async def with_pages(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Plane]:
    """Start the data plane and Django's pages on one port."""
    # Threads that served pages would hold their connections, and the test database could not be dropped.
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 0)
    async with dataplane.running(seeded, test_dsn, pg, redis, serve="all") as plane:
        yield plane
