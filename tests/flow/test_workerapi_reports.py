"""What pilots say: register is a compare-and-set, sync moves replicas forward and writes routes."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuworker import wire
from tests.flow.dataplane import Plane, chat, until


class Pilot:
    """Speaks for one pilot, with the key that its job was given."""

    def __init__(self, plane: Plane, id_: str, job_id: int = 77) -> None:
        self.plane = plane
        self.id = id_
        self.job_id = job_id
        self.token = wire.derive_key(plane.settings.site_key, "portal", id_)
        self.seq = 1000

    async def call(self, verb: str, body: bytes, token: str | None = None) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {token if token is not None else self.token}"}
        async with self.plane.client.post(
            f"{self.plane.url}/worker/v1/{verb}", data=body, headers=headers
        ) as answer:
            return answer.status, await answer.json()

    async def register(self, **changes: Any) -> tuple[int, Any]:
        said = wire.Register(
            pilot=self.id,
            job_id=self.job_id,
            restart_count=0,
            node="gpu01",
            address=self.plane.ingress.url,
            started_at=time.time() - 2,
            agent_at=time.time(),
            agent_version="0.1.0",
            gpus=["0", "1"],
            host_mem_mb=16000,
        )
        return await self.call("register", wire.dumps(replace(said, **changes)))

    def sync_of(self, *replicas: wire.ObservedReplica, **changes: Any) -> wire.Sync:
        self.seq += 1
        said = wire.Sync(
            pilot=self.id,
            job_id=self.job_id,
            seq=self.seq,
            at=time.time(),
            draining=False,
            ending="",
            replicas=list(replicas),
            rows=[],
            log_tail=None,
        )
        return replace(said, **changes)

    async def sync(self, *replicas: wire.ObservedReplica, **changes: Any) -> tuple[int, Any]:
        return await self.call("sync", wire.dumps(self.sync_of(*replicas, **changes)))


def seen(id_: str, state: wire.ObservedState = "hot", **changes: Any) -> wire.ObservedReplica:
    now = time.time()
    said = wire.ObservedReplica(
        id=id_,
        pool="demo",
        model="demo",
        state=state,
        phase="loading weights" if state == "starting" else "",
        cap=4,
        held=0,
        filler=0,
        started_at=now - 5,
        hot_at=now if state == "hot" else None,
        idle_since=None,
        error="it broke" if state == "failed" else "",
        crashes=0,
        mem_mb=100,
        engine_version="0.32.0",
    )
    return replace(said, **changes)


def _registered(plane: Plane, state: str = "up") -> tuple[Pilot, str]:
    id_ = plane.new_pilot(state, job_id=77)
    plane.sql(
        "UPDATE fleet_pilot SET agent_job_id = 77, address = %s WHERE id = %s", (plane.ingress.url, id_)
    )
    return Pilot(plane, id_), plane.new_replica(id_)


def _state(plane: Plane, replica: str) -> str:
    return str(plane.sql("SELECT state FROM fleet_replica WHERE id = %s", (replica,))[0][0])


# Who speaks


async def test_only_the_pilots_own_key_opens_the_door(plane: Plane) -> None:
    pilot, _ = _registered(plane)
    other = wire.derive_key(plane.settings.site_key, "portal", str(uuid.uuid4()))
    ingress_key = wire.derive_key(plane.settings.site_key, "ingress", pilot.id)
    body = wire.dumps(pilot.sync_of())
    for token in ("", "x", other, ingress_key, plane.seeded.token):
        assert (await pilot.call("sync", body, token))[0] == 401
    assert (await pilot.call("sync", body))[0] == 200


async def test_bodies_that_are_not_the_wires_are_refused_with_a_reason(plane: Plane) -> None:
    pilot, _ = _registered(plane)
    for body in (b"", b"{", b"[]", b"{}", json.dumps({"pilot": "no-uuid"}).encode()):
        status, said = await pilot.call("sync", body)
        assert (status, said["error"]["code"]) == (400, "invalid_json")
    status, said = await pilot.call("sync", json.dumps({"pilot": pilot.id}).encode())
    assert status == 400 and "missing" in said["error"]["message"]
    bad = pilot.sync_of(seen("not-an-id"))
    assert (await pilot.call("sync", wire.dumps(bad)))[0] == 400
    assert (await pilot.call("nonsense", wire.dumps(bad)))[0] == 404


# Register


async def test_of_two_jobs_that_register_one_wins_and_stays(plane: Plane) -> None:
    id_ = plane.new_pilot("submitted", job_id=77)
    plane.sql("UPDATE fleet_pilot SET job_id = NULL, state = 'planned' WHERE id = %s", (id_,))
    jobs = [Pilot(plane, id_, job_id) for job_id in range(80, 88)]
    answers = await asyncio.gather(*(job.register() for job in jobs))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    winner = next(job for job, (status, _) in zip(jobs, answers, strict=True) if status == 200)
    assert plane.sql("SELECT agent_job_id, node FROM fleet_pilot") == [(winner.job_id, "gpu01")]
    assert (await winner.register())[0] == 200  # its agent was restarted
    loser = next(job for job in jobs if job is not winner)
    assert (await loser.sync())[0] == 409


async def test_registering_answers_what_is_wanted(plane: Plane) -> None:
    id_ = plane.new_pilot("pending", job_id=77)
    replica = plane.new_replica(id_)
    end = datetime.now(UTC) + timedelta(hours=1)
    plane.sql("UPDATE fleet_pilot SET slurm_end_at = %s WHERE id = %s", (end, id_))
    plane.sql("UPDATE catalog_environment SET python = '/env/bin/python'")
    status, said = await Pilot(plane, id_).register()
    assert status == 200
    (wanted,) = said["desired"]
    assert (wanted["id"], wanted["state"], wanted["python"]) == (replica, "hot", "/env/bin/python")
    assert (wanted["args"], wanted["gpus"], wanted["cap"]) == ({"load_s": 0.1}, [0], 4)
    assert abs(said["deadline_at"] - end.timestamp()) < 0.01
    assert (said["drain"], said["cancels"], said["want_log"]) == (False, [], False)


async def test_a_pilot_that_has_ended_is_told_so(plane: Plane) -> None:
    pilot, _ = _registered(plane)
    plane.sql("UPDATE fleet_pilot SET state = 'ended', ended_at = now()")
    assert (await pilot.register())[0] == 410
    assert (await pilot.sync())[0] == 410


async def test_a_pilot_that_no_row_knows_is_told_to_wait_and_once_adopted_to_register_again(
    plane: Plane,
) -> None:
    lost = Pilot(plane, str(uuid.uuid4()))
    assert (await lost.register())[0] == 503
    assert (await lost.sync())[0] == 503
    pilot, _ = _registered(plane)
    plane.sql("UPDATE fleet_pilot SET agent_job_id = NULL, registered_at = NULL")
    assert (await pilot.sync())[0] == 428
    assert (await pilot.register())[0] == 200
    assert (await pilot.sync())[0] == 200


# Sync


async def test_a_replica_that_is_hot_is_routed_and_waiting_requests_run(plane: Plane) -> None:
    pilot, replica = _registered(plane)
    asking = asyncio.create_task(plane.post(chat()).__aenter__())
    await plane.waiting()
    assert (await pilot.sync(seen(replica, "starting")))[0] == 200
    assert _state(plane, replica) == "starting"
    assert not plane.redis.exists("berth:{demo}:routes")
    assert (await pilot.sync(seen(replica, "hot")))[0] == 200
    async with await asking as answer:
        assert answer.status == 200
    assert _state(plane, replica) == "hot"
    assert plane.sql("SELECT round(load_s) FROM fleet_poolstate") == [(5,)]
    observed = json.loads(plane.redis.get(f"berth:sync:{pilot.id}"))  # type: ignore[arg-type]
    assert observed["received_at"] and wire.loads(wire.Sync, json.dumps(observed)).pilot == pilot.id


async def test_what_drains_fails_or_leaves_is_not_routed(plane: Plane) -> None:
    pilot, replica = _registered(plane)

    async def routed(*replicas: wire.ObservedReplica, **changes: Any) -> bool:
        assert (await pilot.sync(*replicas, **changes))[0] == 200
        return bool(plane.redis.hexists("berth:{demo}:routes", replica))

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
    pilot, replica = _registered(plane)
    plane.sql("UPDATE catalog_pool SET sleep_level = 2")

    def wishes(said: dict[str, Any]) -> list[tuple[str, int, int]]:
        return [(d["state"], d["may_sleep"], d["sleep_level"]) for d in said["desired"]]

    _, said = await pilot.sync(seen(replica, "hot", can_sleep=2, wake_s=2.0))
    assert wishes(said) == [("hot", 2, 0)]
    plane.sql("UPDATE fleet_replica SET state = 'draining', draining_at = now(), sleep_level = 1")
    _, said = await pilot.sync(seen(replica, "draining", phase="going to sleep"))
    assert wishes(said) == [("asleep", 2, 1)]
    _, said = await pilot.sync(seen(replica, "asleep", asleep_mem_mb=700))
    assert (_state(plane, replica), wishes(said)) == ("asleep", [("asleep", 2, 1)])
    assert not plane.redis.exists("berth:{demo}:routes")

    plane.sql("UPDATE fleet_replica SET state = 'starting', sleep_level = 0")
    _, said = await pilot.sync(seen(replica, "asleep", asleep_mem_mb=700))
    assert (_state(plane, replica), wishes(said)) == ("starting", [("hot", 2, 0)]), "an older word"
    await pilot.sync(seen(replica, "hot", started_at=time.time(), wakes=1, wake_s=4.0, can_sleep=2))
    assert _state(plane, replica) == "hot"
    measured = plane.sql("SELECT round(load_s), round(wake_s::numeric, 1) FROM fleet_poolstate")
    assert [(float(load), float(wake)) for load, wake in measured] == [(5.0, 2.6)]


async def test_an_older_sync_than_the_last_changes_nothing(plane: Plane) -> None:
    pilot, replica = _registered(plane)
    late = wire.dumps(pilot.sync_of(seen(replica, "failed")))
    assert (await pilot.sync(seen(replica, "hot")))[0] == 200
    status, said = await pilot.call("sync", late)
    assert status == 200 and said["desired"]
    assert _state(plane, replica) == "hot"
    assert plane.redis.hexists("berth:{demo}:routes", replica)


async def test_another_pilots_replica_cannot_be_moved_or_routed(plane: Plane) -> None:
    pilot, _ = _registered(plane)
    foreign = plane.new_replica(plane.new_pilot())
    await pilot.sync(seen(foreign, "hot"))
    assert _state(plane, foreign) == "wanted"
    assert not plane.redis.exists("berth:{demo}:routes")


async def test_a_sync_without_news_writes_nothing(plane: Plane) -> None:
    pilot, replica = _registered(plane)
    await pilot.sync(seen(replica))
    events = plane.sql("SELECT count(*) FROM fleet_fleetevent")
    versions = "SELECT (SELECT xmin::text FROM fleet_replica), (SELECT xmin::text FROM fleet_pilot)"
    old = plane.sql(versions)
    for _ in range(3):
        await pilot.sync(seen(replica))
    assert plane.sql(versions) == old
    assert plane.sql("SELECT count(*) FROM fleet_fleetevent") == events


async def test_a_flushed_redis_has_its_routes_back_with_the_next_sync(plane: Plane) -> None:
    pilot, replica = _registered(plane)
    await pilot.sync(seen(replica))
    plane.redis.flushall()
    await pilot.sync(seen(replica))
    assert plane.redis.hexists("berth:{demo}:routes", replica)


async def test_weights_are_asked_for_until_they_are_there(plane: Plane) -> None:
    pilot, replica = _registered(plane)
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
    pilot, _ = _registered(plane)
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
    pilot, replica = _registered(plane)
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
