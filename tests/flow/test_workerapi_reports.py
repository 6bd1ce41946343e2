"""What pilots say: register is a compare-and-set, sync moves replicas forward and writes routes."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

from gpuworker import wire
from portal.redis import keys
from tests.flow.dataplane import Plane, chat, until
from tests.flow.pilot_client import registered, seen, state_of

# Who speaks


# Register


# Sync


async def test_a_replica_that_is_hot_is_routed_and_waiting_requests_run(plane: Plane) -> None:
    pilot, replica = registered(plane)
    asking = asyncio.create_task(plane.post(chat()).__aenter__())
    await plane.waiting()
    assert (await pilot.sync(seen(replica, "starting")))[0] == 200
    assert state_of(plane, replica) == "starting"
    assert not plane.redis.exists(keys.ROUTES.of("demo"))
    assert (await pilot.sync(seen(replica, "hot")))[0] == 200
    async with await asking as answer:
        assert answer.status == 200
    assert state_of(plane, replica) == "hot"
    assert plane.sql("SELECT round(load_s) FROM fleet_poolstate") == [(5,)]
    observed = json.loads(plane.redis.get(keys.SYNC.of(pilot.id)))  # type: ignore[arg-type]
    assert observed["received_at"] and wire.loads(wire.Sync, json.dumps(observed)).pilot == pilot.id


async def test_what_drains_fails_or_leaves_is_not_routed(plane: Plane) -> None:
    pilot, replica = registered(plane)

    async def routed(*replicas: wire.ObservedReplica, **changes: Any) -> bool:
        assert (await pilot.sync(*replicas, **changes))[0] == 200
        return bool(plane.redis.hexists(keys.ROUTES.of("demo"), replica))

    assert await routed(seen(replica))
    assert not await routed(seen(replica), draining=True)
    assert await routed(seen(replica))
    assert not await routed(seen(replica), ending="walltime")
    assert plane.sql("SELECT said_ending FROM fleet_pilot") == [("walltime",)]
    plane.sql("UPDATE fleet_pilot SET state = 'draining', draining_at = now()")
    assert not await routed(seen(replica))
    plane.sql("UPDATE fleet_pilot SET state = 'up'")
    assert await routed(seen(replica))
    # The loop drains it: a report that it is hot does not route it again.
    plane.sql("UPDATE fleet_replica SET state = 'draining', draining_at = now()")
    assert not await routed(seen(replica))
    assert not await routed(seen(replica, "failed"))
    assert plane.sql("SELECT state, end_reason FROM fleet_replica") == [("failed", "it broke")]


async def test_what_is_to_sleep_is_told_so_and_its_wake_is_no_load(plane: Plane) -> None:
    pilot, replica = registered(plane)
    plane.sql("UPDATE catalog_pool SET sleep_level = 2")

    def wishes(said: dict[str, Any]) -> list[tuple[str, int, int]]:
        return [(d["state"], d["may_sleep"], d["sleep_level"]) for d in said["desired"]]

    _, said = await pilot.sync(seen(replica, "hot", can_sleep=2, wake_s=2.0))
    assert wishes(said) == [("hot", 2, 0)]
    plane.sql("UPDATE fleet_replica SET state = 'draining', draining_at = now(), sleep_level = 1")
    _, said = await pilot.sync(seen(replica, "draining", phase="going to sleep"))
    assert wishes(said) == [("asleep", 2, 1)]
    _, said = await pilot.sync(seen(replica, "asleep", asleep_mem_mb=700))
    assert (state_of(plane, replica), wishes(said)) == ("asleep", [("asleep", 2, 1)])
    assert not plane.redis.exists(keys.ROUTES.of("demo"))

    plane.sql("UPDATE fleet_replica SET state = 'starting', sleep_level = 0")
    _, said = await pilot.sync(seen(replica, "asleep", asleep_mem_mb=700))
    assert (state_of(plane, replica), wishes(said)) == ("starting", [("hot", 2, 0)]), "an older word"
    await pilot.sync(seen(replica, "hot", started_at=time.time(), wakes=1, wake_s=4.0, can_sleep=2))
    assert state_of(plane, replica) == "hot"
    measured = plane.sql("SELECT round(load_s), round(wake_s::numeric, 1) FROM fleet_poolstate")
    assert [(float(load), float(wake)) for load, wake in measured] == [(5.0, 2.6)]


async def test_an_older_sync_than_the_last_changes_nothing(plane: Plane) -> None:
    pilot, replica = registered(plane)
    late = wire.dumps(pilot.sync_of(seen(replica, "failed")))
    assert (await pilot.sync(seen(replica, "hot")))[0] == 200
    status, said = await pilot.call("sync", late)
    assert status == 200 and said["desired"]
    assert state_of(plane, replica) == "hot"
    assert plane.redis.hexists(keys.ROUTES.of("demo"), replica)


async def test_another_pilots_replica_cannot_be_moved_or_routed(plane: Plane) -> None:
    pilot, _ = registered(plane)
    foreign = plane.new_replica(plane.new_pilot())
    await pilot.sync(seen(foreign, "hot"))
    assert state_of(plane, foreign) == "wanted"
    assert not plane.redis.exists(keys.ROUTES.of("demo"))


async def test_a_sync_without_news_writes_nothing(plane: Plane) -> None:
    pilot, replica = registered(plane)
    await pilot.sync(seen(replica))
    events = plane.sql("SELECT count(*) FROM fleet_fleetevent")
    versions = "SELECT (SELECT xmin::text FROM fleet_replica), (SELECT xmin::text FROM fleet_pilot)"
    old = plane.sql(versions)
    for _ in range(3):
        await pilot.sync(seen(replica))
    assert plane.sql(versions) == old
    assert plane.sql("SELECT count(*) FROM fleet_fleetevent") == events


async def test_a_flushed_redis_has_its_routes_back_with_the_next_sync(plane: Plane) -> None:
    pilot, replica = registered(plane)
    await pilot.sync(seen(replica))
    plane.redis.flushall()
    await pilot.sync(seen(replica))
    assert plane.redis.hexists(keys.ROUTES.of("demo"), replica)


async def test_weights_are_asked_for_until_they_are_there(plane: Plane) -> None:
    pilot, replica = registered(plane)
    _, said = await pilot.sync(seen(replica))
    assert said["stage"] == []
    plane.sql("UPDATE fleet_pilot SET stage_wish = 'demo'")
    _, said = await pilot.sync(seen(replica))
    assert said["stage"] == [], "its model has no folder"
    plane.sql("UPDATE catalog_model SET path = '/models/demo' WHERE pool_id = 'demo'")
    _, said = await pilot.sync(seen(replica))
    assert said["stage"] == [{"pool": "demo", "path": "/models/demo"}]
    _, said = await pilot.sync(seen(replica), staged=["demo"])
    assert plane.sql("SELECT staged FROM fleet_pilot") == [(["demo"],)]
    _, said = await pilot.sync(seen(replica), staged=["demo"])
    assert said["stage"] == []
    _, said = await pilot.sync(seen(replica))
    assert plane.sql("SELECT staged FROM fleet_pilot") == [([],)], "its agent was started again"


async def test_a_log_is_asked_for_and_kept(plane: Plane) -> None:
    pilot, _ = registered(plane)
    plane.sql(
        """INSERT INTO fleet_command (kind, pilot_id, args, state, result, created_at)
           VALUES ('log', %s, '{}', 'pending', '', now())""",
        (pilot.id,),
    )
    assert (await pilot.sync())[1]["want_log"] is True
    _, said = await pilot.sync(log_tail="line one\0\nline two")
    assert said["want_log"] is False
    assert plane.sql("SELECT text FROM fleet_pilotlog") == [("line one\ufffd\nline two",)]


async def test_the_loop_is_woken_by_news_and_by_a_registration(plane: Plane) -> None:
    pilot, replica = registered(plane)
    queue = f"berth-{plane.settings.instance}"

    async def woken() -> None:
        await until(lambda: plane.redis.llen(queue) > 0, "a message for the control loop")
        plane.redis.delete(queue)

    await pilot.register()
    await woken()
    await pilot.sync(seen(replica))
    await woken()
    await pilot.sync(seen(replica, "failed"))
    await woken()
