"""One port, split by path; health; and what a gateway does while Redis or PostgreSQL is away."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis as redis_library
from devstack.redis import Redis
from psycopg2.extensions import connection as Connection

from portal.admission import patience
from portal.asgi import Application
from portal.config import config
from portal.redis import keys
from tests.flow import dataplane
from tests.flow.dataplane import Plane, Seeded, chat, until
from tests.flow.fake_ingress import go_on_for_ever


async def _status(client: aiohttp.ClientSession, url: str) -> int:
    async with client.get(url) as answer:
        return answer.status


@pytest.mark.parametrize(
    ("serve", "expected"),
    [
        ("gateway", {"/v1/models": 401, "/worker/v1/sync": 405, "/healthz": 200, "/no-such-page": 404}),
        ("site", {"/v1/models": 404, "/worker/v1/sync": 404, "/healthz": 200, "/no-such-page": 404}),
        ("all", {"/v1/models": 401, "/worker/v1/sync": 405, "/healthz": 200, "/no-such-page": 404}),
    ],
)
async def test_each_process_serves_its_part(
    serve: str, expected: dict[str, int], seeded: Seeded, test_dsn: str, redis: redis_library.Redis
) -> None:
    app = Application(dataclasses.replace(config(), database_url=test_dsn, serve=serve))
    async with dataplane.serving(app) as url, aiohttp.ClientSession() as client:
        assert {path: await _status(client, url + path) for path in expected} == expected
        async with client.get(url + "/no-such-page") as answer:
            from_django = "X-Frame-Options" in answer.headers
        assert from_django == (serve != "gateway")


async def test_ready_means_database_queue_and_a_recent_tick(plane: Plane) -> None:
    async def ready() -> tuple[int, dict[str, Any]]:
        async with plane.client.get(plane.url + "/readyz") as answer:
            return answer.status, await answer.json()

    status, said = await ready()
    assert (status, said["tick"], said["database"], said["redis"]) == (503, "never", True, True)
    plane.sql(
        """INSERT INTO fleet_cluster (name, paused, orphans, partitions, reservations, ticked_at)
           VALUES ('main', false, '{}', '{}', '[]', now())"""
    )
    status, said = await ready()
    assert (status, said["tick"]) == (200, "ok") and said["tick_age_s"] < 5
    plane.sql("UPDATE fleet_cluster SET ticked_at = now() - interval '10 minutes'")
    assert (await ready())[0] == 503


async def test_a_start_that_fails_says_why(seeded: Seeded, redis: redis_library.Redis) -> None:
    app = Application(dataclasses.replace(config(), serve="gateway"))
    assert app.gateway is not None

    async def broken() -> None:
        raise OSError("no room on the device")

    app.gateway.start = broken  # type: ignore[method-assign]
    said: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "lifespan.startup"}

    async def send(message: dict[str, Any]) -> None:
        said.append(message)

    await app({"type": "lifespan"}, receive, send)
    assert said == [
        {"type": "lifespan.startup.failed", "message": "Berth cannot start: no room on the device"}
    ]


async def test_without_redis_new_requests_are_told_and_running_streams_go_on(
    seeded: Seeded, test_dsn: str, pg: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "PATIENCE_S", 0.5)
    own = Redis(tmp_path / "redis").start()
    try:
        client = redis_library.Redis.from_url(own.url)
        async with dataplane.running(seeded, test_dsn, pg, client, redis_url=own.url) as plane:
            plane.route()
            plane.ingress.next = [go_on_for_ever]
            async with plane.post(chat(stream=True)) as running:
                await running.content.readline()
                plane.redis.hdel(keys.ROUTES.of("demo"), *plane.redis.hkeys(keys.ROUTES.of("demo")))
                async with plane.post(chat(stream=True)) as waiting:
                    await waiting.content.readline()
                    own.kill()
                    text = await waiting.text()
                assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == "queue_unavailable"
                assert (await plane.ended(waiting.headers["x-request-id"]))["state"] == "failed"
                async with plane.post() as fresh:
                    assert fresh.status == 503 and "Retry-After" in fresh.headers
                    assert (await fresh.json())["error"]["code"] == "queue_unavailable"
                assert plane.row(fresh.headers["x-request-id"]) is None
                assert b"again" in await running.content.readany()
                async with plane.client.get(plane.url + "/readyz") as ready:
                    assert (ready.status, (await ready.json())["redis"]) == (503, False)
        client.close()
    finally:
        own.stop()


async def test_redis_comes_back_while_requests_wait(
    seeded: Seeded, test_dsn: str, pg: Connection, tmp_path: Path
) -> None:
    """SIGKILL and a new, empty Redis in the same place: those in line stay in line."""
    own = Redis(tmp_path / "redis").start()
    try:
        client = redis_library.Redis.from_url(own.url)
        async with dataplane.running(seeded, test_dsn, pg, client, redis_url=own.url) as plane:
            async with plane.post(chat(stream=True)) as waiting:
                await waiting.content.readline()
                (request,) = await plane.waiting()
                await plane.gateway.keeper.keep_once()
                own.kill()
                await until(lambda: plane.gateway.slots.down_since is not None, "it is noticed")
                own.start_server()
                assert await plane.waiting() == [request]
                await plane.open()
                assert "world" in await waiting.text()
        client.close()
    finally:
        own.stop()


async def test_without_postgres_a_cold_request_is_told_and_a_hot_one_is_recorded_later(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    from portal.gateway import writer

    monkeypatch.setattr(writer, "PATIENCE_S", 0.5)
    replica = plane.route()
    async with plane.post() as answer:  # the caller and the model are known from now on
        assert answer.status == 200
    # The writer has its connection, and does not just now make the one that is to fail.
    await plane.ended(answer.headers["x-request-id"])
    url, plane.gateway.writer._url = plane.gateway.writer._url, "postgresql://nobody@127.0.0.1:9/none"
    plane.gateway.writer._drop_link()
    async with plane.post() as hot:
        assert hot.status == 200
    plane.redis.hdel(keys.ROUTES.of("demo"), replica)
    async with plane.post() as cold:
        assert (cold.status, (await cold.json())["error"]["code"]) == (503, "database_unavailable")
    plane.gateway.writer._url = url
    assert (await plane.ended(hot.headers["x-request-id"]))["state"] == "done"
    assert plane.row(cold.headers["x-request-id"]) is None
    assert not plane.redis.exists(keys.WAIT.of("demo"))


async def test_a_gateway_that_stops_leaves_what_it_accepted_to_be_found(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis
) -> None:
    async with aiohttp.ClientSession() as client:  # outlives the server
        async with dataplane.running(seeded, test_dsn, pg, redis) as plane:
            waiting = await client.post(
                plane.url + "/v1/chat/completions", json=chat(stream=True), headers=plane.headers()
            )
            await waiting.content.readline()
            request = waiting.headers["x-request-id"]
            reading = asyncio.create_task(waiting.text())
            await plane.waiting()
        text = await reading
    assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == "detached"
    row = plane.row(request)
    assert row is not None and (row["state"], row["holder"]) == ("queued", plane.gateway.id)
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(1,)]
    assert not redis.exists(keys.WAIT.of("demo"))
