"""A row under which an engine died runs again, alone, on the real gpuworker, however its polls stand."""

from __future__ import annotations

from pathlib import Path

import redis as redis_library
from psycopg2.extensions import connection as Connection

from portal.redis import keys
from tests.flow import dataplane
from tests.flow.dataplane import Seeded, until
from tests.flow.gpuworker_job import START_S, job, planned
from tests.flow.test_workerapi_rows import _put


async def test_a_suspect_does_not_wait_for_a_poll_that_asks_for_everything(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis, tmp_path: Path
) -> None:
    """Two polls share the places of an idle replica, and none of them ever asks for all: the row waited for ever."""
    async with dataplane.running(seeded, test_dsn, pg, redis, lease_wait_s=2.0) as plane:
        pilot, _ = planned(plane, '{"tokens_per_s": 2}')
        with job(plane, pilot, tmp_path):
            await until(lambda: plane.redis.exists(keys.ROUTES.of("demo")), "a route", START_S)
            (usual,) = _put(plane)  # takes a place: the next poll asks for the other one
            plane.redis.publish(keys.ROWS.of("demo"), "look")
            await plane.ended(usual)  # and the one after that for this place
            (suspect,) = _put(plane, crashes=1)
            row = await plane.ended(suspect)
    assert (row["state"], row["attempt"], row["crashes"]) == ("done", 1, 1)
