"""Listening goes on after a connection was lost, and says when it may have missed something."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

import redis as redis_library

from portal.redis import clients
from portal.redis.subscription import listen

WITHIN_S = 60.0


async def _until(look: Callable[[], Any]) -> None:
    async with asyncio.timeout(WITHIN_S):
        while not look():
            await asyncio.sleep(0.005)


async def test_a_lost_connection_is_made_again_and_its_owner_knows(redis: redis_library.Redis) -> None:
    heard: list[tuple[str, bytes]] = []
    told: list[str] = []
    task = asyncio.create_task(
        listen(
            os.environ["BERTH_REDIS_URL"],
            "test-ear",
            lambda channel, text: heard.append((channel, text)),
            channels=["one", "two"],
            patterns=["some:*"],
            began=lambda: told.append("began"),
            ended=lambda: told.append("ended"),
        )
    )
    await _until(lambda: told == ["began"])
    for channel in ("one", "some:thing", "other", "two"):
        redis.publish(channel, channel)
    await _until(lambda: len(heard) == 3)
    assert heard == [("one", b"one"), ("some:thing", b"some:thing"), ("two", b"two")]
    (ear,) = [client for client in redis.client_list() if client["name"] == "test-ear"]
    redis.client_kill_filter(_id=ear["id"])
    await _until(lambda: told == ["began", "ended", "began"])
    redis.publish("two", "again")
    await _until(lambda: heard[3:] == [("two", b"again")])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert told == ["began", "ended", "began", "ended"]


async def test_each_client_is_shown_by_its_name(redis: redis_library.Redis) -> None:
    url = os.environ["BERTH_REDIS_URL"]
    with clients.blocking(url, clients.TICK) as blocking:
        async with clients.in_loop(url, clients.READINESS) as in_loop:
            blocking.ping()
            await in_loop.ping()
            names = {client["name"] for client in redis.client_list()}
    assert {"berth-tick", "berth-readiness"} <= names
