"""Redis loses what it knew: seconds, nobody's place, and no slot too many."""

from __future__ import annotations

import asyncio
from typing import Any

from portal.redis import keys
from tests.flow.dataplane import Plane, answered, chat, until


async def test_a_flush_while_waiting_costs_seconds_and_not_the_place(plane: Plane) -> None:
    asking = [asyncio.create_task(answered(plane, chat(user="a")))]
    first = await plane.waiting(1)
    asking.append(asyncio.create_task(answered(plane, chat(user="b"))))
    both = await plane.waiting(2)
    assert both[0] == first[0]
    await plane.gateway.keeper.keep_once()  # it knows this life of Redis
    plane.redis.flushall()
    await plane.gateway.keeper.keep_once()  # one round is enough
    assert await plane.waiting(2, within_s=0.5) == both
    await plane.open(cap=1)
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200]
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["a", "b"]


async def test_a_flush_while_running_brings_the_leases_back_and_admits_nobody_in_between(
    plane: Plane,
) -> None:
    plane.ingress.gate.clear()
    replica = plane.route(cap=1)
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    running = asyncio.create_task(answered(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    await plane.gateway.keeper.keep_once()
    plane.redis.flushall()
    second = asyncio.create_task(answered(plane))
    await plane.waiting()  # no routes: nobody is admitted
    await plane.gateway.keeper.keep_once()
    await until(lambda: plane.slots(replica) == 1, "the lease is back", 0.5)
    plane.set_route(replica, pilot, cap=1)  # the next sync
    await plane.gateway.slots.fill("demo")
    await plane.waiting()
    plane.ingress.gate.set()
    assert [(await task)[0] for task in (running, second)] == [200, 200]
    assert plane.ingress.most == 1


async def test_a_lost_grant_costs_seconds(plane: Plane) -> None:
    async with plane.post(chat(stream=True)) as answer:
        await answer.content.readline()
        (request,) = await plane.waiting()
        # Popped and granted, and the message never arrived.
        plane.redis.zrem(keys.WAIT.of("demo"), request)
        plane.route()
        assert "world" in await answer.text()


async def test_a_lease_in_use_outlives_its_fifteen_seconds(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route()
    asking = asyncio.create_task(answered(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    key = keys.SLOTS.of("demo", replica)
    leases: Any = plane.redis.zrange(key, 0, -1, withscores=True)
    ((member, first),) = leases
    hands = plane.gateway.keeper._pools["demo"].leases
    hands[member.decode().split("|")[0]].renew_at = 0.0  # as if half its time were over
    await until(lambda: (plane.redis.zscore(key, member) or 0) > first, "a later expiry")
    plane.ingress.gate.set()
    assert (await asking)[0] == 200
