"""Clients that were told to come again: their place is kept, nobody runs it meanwhile, and it does not last for ever."""

from __future__ import annotations

import asyncio
import dataclasses
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis as redis_library
from psycopg2.extensions import connection as Connection

from portal.asgi import Application
from portal.errors import ApiError
from portal.ledger import transitions
from portal.redis import keys
from tests.flow import dataplane
from tests.flow.dataplane import Plane, Seeded, answered, chat, until

HURRY = {"x-stainless-read-timeout": "10.5"}  # held for a second
_LINE = keys.WAIT.of("demo")


async def told_to_come_again(plane: Plane, body: Any = None) -> str:
    async with plane.post(body, headers=HURRY) as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_starting")
        return str(answer.headers["x-request-id"])


async def kept(plane: Plane, request: str) -> None:
    """Wait until the ticket is kept. It is written just after the answer; what is done to its row by hand
    comes later."""
    sql = "SELECT 1 FROM ledger_ticket WHERE request = %s"
    await until(lambda: plane.sql(sql, (request,)), "the ticket")


def place(plane: Plane, request: str) -> tuple[str, str, float]:
    row = plane.row(request)
    assert row is not None
    return row["state"], row["lane"], row["order_key"]


async def test_a_retry_is_the_same_request_in_its_old_place(plane: Plane) -> None:
    first = await told_to_come_again(plane, chat(user="a"))
    was = place(plane, first)
    second = asyncio.create_task(answered(plane, chat(user="b")))
    await plane.waiting(1)
    again = asyncio.create_task(answered(plane, chat(user="a")))
    line = await plane.waiting(2)
    assert line[0] == first and place(plane, first) == was
    await plane.open(cap=1)
    assert (await again)[::2] == (200, first)
    assert (await second)[0] == 200
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["a", "b"]
    row = await plane.ended(first)
    assert (row["state"], row["attempt"]) == ("done", 1)
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(2,)]


async def test_nothing_is_run_for_a_client_that_is_away_but_its_demand_stays(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    replica = await plane.open()
    await plane.gateway.keeper.keep_once()
    assert not plane.redis.exists(_LINE) and plane.slots(replica) == 0 and not plane.ingress.seen
    assert place(plane, first)[:2] == ("queued", "held")
    with plane.pg.cursor() as cur:
        assert transitions.fold_depth(cur) == {("demo", "held", "queued"): 1}
    plane.pg.commit()
    assert (await answered(plane))[::2] == (200, first)  # there is room, and it is still the same request


async def test_another_body_or_token_is_another_request(plane: Plane) -> None:
    first = await told_to_come_again(plane, chat(user="a"))
    await plane.open()
    status, _, other = await answered(plane, chat(user="b"))
    assert status == 200 and other != first
    assert place(plane, first)[0] == "queued"
    plane.sql("UPDATE ledger_ticket SET token_id = token_id + 1")  # somebody else's
    status, _, mine = await answered(plane, chat(user="a"))
    assert status == 200 and mine != first


async def test_two_that_ask_the_same_have_a_place_each(plane: Plane) -> None:
    both = set(await asyncio.gather(told_to_come_again(plane), told_to_come_again(plane)))
    asking = [asyncio.create_task(answered(plane)) for _ in range(3)]
    line = await plane.waiting(3)
    assert both < set(line)
    await plane.open()
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200] * 3


async def test_whoever_is_told_again_keeps_the_place_again(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    was = place(plane, first)
    assert await told_to_come_again(plane) == first
    assert place(plane, first) == was


async def test_a_client_that_leaves_after_it_came_back_takes_its_request_along(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    again = asyncio.create_task(answered(plane))
    assert await plane.waiting() == [first]
    again.cancel()
    assert (await plane.ended(first))["state"] == "cancelled"
    await plane.open()
    assert (await answered(plane))[2] != first


async def test_a_ticket_whose_request_was_cancelled_is_worth_nothing(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    with plane.pg.cursor() as cur:
        transitions.cancel(cur, [uuid.UUID(first)], datetime.now(UTC), "asked")
    plane.pg.commit()
    await plane.open()
    status, _, other = await answered(plane)
    assert status == 200 and other != first


async def test_a_ticket_nobody_came_back_for_expires(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis
) -> None:
    changes = {"ticket_s": 0.5, "holder_stale_s": 2.0}
    async with dataplane.running(seeded, test_dsn, pg, redis, **changes) as plane:
        first = await told_to_come_again(plane)
        row = await plane.ended(first)
        assert (row["state"], row["error_code"]) == ("expired", "ticket_expired")
        assert plane.sql("SELECT count(*) FROM ledger_ticket") == [(0,)]
        assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]


async def test_one_that_came_back_does_not_expire(
    seeded: Seeded, test_dsn: str, pg: Connection, redis: redis_library.Redis
) -> None:
    changes = {"ticket_s": 1.0, "holder_stale_s": 2.0}
    async with dataplane.running(seeded, test_dsn, pg, redis, **changes) as plane:
        first = await told_to_come_again(plane)
        again = asyncio.create_task(answered(plane))
        await plane.waiting()
        await until(lambda: plane.sql("SELECT count(*) FROM ledger_ticket") == [(0,)], "the ticket's end")
        await plane.open()
        assert (await again)[::2] == (200, first)


@pytest.fixture
async def other(plane: Plane, seeded: Seeded) -> AsyncIterator[Plane]:
    """Start a second gateway beside the first."""
    app = Application(dataclasses.replace(plane.settings))
    async with dataplane.serving(app) as url:
        yield Plane(app, url, seeded, plane.ingress, plane.pg, plane.redis, plane.settings, plane.client)


async def test_a_place_is_had_back_at_another_gateway(plane: Plane, other: Plane) -> None:
    first = await told_to_come_again(plane)
    token = plane.seeded.token_pk
    await until(lambda: token in other.gateway.directory.snapshot.ticketed, "the other knows of it")
    again = asyncio.create_task(answered(other))
    assert await plane.waiting() == [first]
    row = plane.row(first)
    assert row is not None and row["holder"] == other.gateway.id
    await other.open()
    assert (await again)[::2] == (200, first)


async def test_a_retry_says_so_itself_and_is_recognised_at_once(plane: Plane, other: Plane) -> None:
    first = await told_to_come_again(plane)
    await plane.open()
    async with other.post(headers={"x-stainless-retry-count": "1"}) as answer:
        assert (answer.status, answer.headers["x-request-id"]) == (200, first)


async def test_a_place_outlives_its_gateway(plane: Plane) -> None:
    """Its gateway was taken for dead: the row became a pilot's, and is had back while it waits."""
    first = await told_to_come_again(plane)
    await kept(plane, first)
    plane.sql("UPDATE ledger_request SET lane = 'async', holder = NULL")
    await plane.open()
    assert (await answered(plane))[::2] == (200, first)


async def test_an_answer_that_a_pilot_has_found_meanwhile_is_given(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    await kept(plane, first)
    plane.sql(
        """UPDATE ledger_request SET lane = 'async', holder = NULL, state = 'done', http_status = 200,
             ended_at = now()"""
    )
    plane.sql("UPDATE ledger_payload SET result = %s", (b'{"choices": []}',))
    assert await answered(plane) == (200, '{"choices": []}', first)
    assert not plane.ingress.seen


async def test_whoever_asks_for_later_takes_no_place_of_those_who_wait(plane: Plane) -> None:
    first = await told_to_come_again(plane)
    async with plane.post(headers={"Prefer": "respond-async"}) as answer:
        assert answer.status == 202 and answer.headers["x-request-id"] != first
        later = plane.row(answer.headers["x-request-id"])
    assert later is not None and (later["state"], later["lane"]) == ("queued", "async")
    assert place(plane, first)[:2] == ("queued", "held")
    await plane.open()
    assert (await answered(plane))[::2] == (200, first)


async def test_one_that_is_refused_when_it_comes_again_keeps_its_place(
    plane: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def refuse(_: Any) -> None:
        raise ApiError("forbidden")

    first = await told_to_come_again(plane)
    with monkeypatch.context() as patch:
        patch.setattr(plane.gateway._limits, "enter", refuse)
        assert (await answered(plane))[0] == 403
    await plane.open()
    assert (await answered(plane))[::2] == (200, first)
