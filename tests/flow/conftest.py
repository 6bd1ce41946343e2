"""Fixtures of the flow tests."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import redis as redis_library
from psycopg2.extensions import connection as Connection

from tests.flow import dataplane, running_portal
from tests.flow.dataplane import Plane, Seeded
from tests.flow.running_portal import Portal


@pytest.fixture
def seeded(transactional_db: None) -> Seeded:
    return dataplane.seed()


@pytest.fixture
async def plane(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis
) -> AsyncIterator[Plane]:
    """The data plane with a fake ingress, nothing routed yet."""
    async with dataplane.running(seeded, test_dsn, pg, redis) as plane:
        yield plane


@pytest.fixture
async def portal(plane: Plane, tmp_path: Path) -> AsyncIterator[Portal]:
    async with running_portal.running(plane, tmp_path) as portal:
        yield portal
