"""What goes wrong between gateway, ingress and Redis: each request still ends well, once."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from gpuworker import wire
from tests.flow.dataplane import (
    FakeIngress,
    Plane,
    break_off,
    chat,
    go_on_for_ever,
    lose,
    refuse,
    until,
)


async def _answered(plane: Plane, body: Any = None) -> tuple[int, str, str]:
    async with plane.post(body) as answer:
        return answer.status, await answer.text(), answer.headers["x-request-id"]


# Refused: no engine has seen it


async def test_a_hot_request_that_is_refused_becomes_an_accepted_one_and_runs_elsewhere(plane: Plane) -> None:
    first, second = plane.route(), plane.route()
    plane.ingress.next = [refuse("draining")]
    status, text, request = await _answered(plane)
    assert status == 200 and "hello world" in text
    one, two = plane.ingress.seen
    assert one.headers[wire.HEADER_REPLICA] != two.headers[wire.HEADER_REPLICA]
    assert (one.attempt, two.attempt) == (0, 1)
    row = await plane.ended(request)
    assert (row["state"], row["attempt"], row["replica"]) == ("done", 1, two.headers[wire.HEADER_REPLICA])
    # The one that drains is out of the routes; neither holds a slot.
    assert plane.redis.hkeys("berth:{demo}:routes") == [two.headers[wire.HEADER_REPLICA].encode()]
    await until(lambda: plane.slots(first) + plane.slots(second) == 0, "no slot in use")


async def test_a_granted_request_that_is_refused_keeps_its_place(plane: Plane) -> None:
    plane.ingress.next = [refuse("draining")]
    asking = [asyncio.create_task(_answered(plane, chat(user="first")))]
    (request,) = await plane.waiting(1)
    key = plane.redis.zscore("berth:{demo}:wait", request)
    asking.append(asyncio.create_task(_answered(plane, chat(user="second"))))
    await plane.waiting(2)
    await plane.open(cap=1)  # refuses the first, and is taken out of the routes
    await until(lambda: ("requeue", "refused: draining") in plane.events(request), "back in line")
    assert await plane.waiting(2)
    assert plane.redis.zscore("berth:{demo}:wait", request) == key
    await plane.open(cap=1)
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200]
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["first", "first", "second"]
    assert [seen.attempt for seen in plane.ingress.seen] == [1, 2, 1]


async def test_a_full_replica_stays_routed_and_is_not_asked_in_a_tight_loop(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [refuse("full"), refuse("full")]
    status, _, _ = await _answered(plane)
    assert status == 200
    assert plane.redis.hexists("berth:{demo}:routes", replica)
    assert len(plane.ingress.seen) == 3


async def test_an_ingress_that_is_gone_is_taken_out_of_the_routes(plane: Plane) -> None:
    gone = plane.route(url="http://127.0.0.1:9")
    asking = asyncio.create_task(_answered(plane))
    await plane.waiting()
    assert not plane.redis.hexists("berth:{demo}:routes", gone)
    await plane.open()
    assert (await asking)[0] == 200


async def test_a_wrong_key_is_our_fault_and_ends_the_request(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [refuse("key", 401)]
    status, text, request = await _answered(plane)
    assert status == 500 and json.loads(text)["error"]["code"] == "internal"
    assert (await plane.ended(request))["state"] == "failed"


# Lost: an engine had it


async def test_lost_before_the_first_byte_is_tried_again_in_silence(plane: Plane) -> None:
    plane.route()
    plane.route()
    for loss in (lose("gone"), break_off(0)):
        plane.ingress.next = [loss]
        status, text, request = await _answered(plane, chat(stream=True))
        assert status == 200 and "error" not in text and "world" in text
        row = await plane.ended(request)
        assert (row["state"], row["crashes"]) == ("done", 0)
        for pilot, replica in plane.sql("SELECT pilot_id::text, id::text FROM fleet_replica"):
            plane.set_route(replica, pilot)


async def test_lost_in_the_middle_is_an_error_event_and_never_a_spliced_answer(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [break_off(2)]
    status, text, request = await _answered(plane, chat(stream=True))
    assert status == 200
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "replica_lost"
    assert text.count("hello") == 2 and "[DONE]" not in text
    row = await plane.ended(request)
    assert (row["state"], row["error_code"], row["attempt"]) == ("failed", "replica_lost", 1)
    assert row["first_token_at"] is not None
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_after_a_crash_it_runs_alone_and_after_three_it_is_poison(plane: Plane) -> None:
    replica = plane.route()
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    plane.ingress.next = [lose("crash"), lose("crash"), lose("crash")]
    asking = asyncio.create_task(_answered(plane))
    for tries in (1, 2):
        await until(lambda n=tries: len(plane.ingress.seen) == n, f"try {tries}")
        (request,) = await plane.waiting()
        assert plane.redis.smembers("berth:{demo}:suspects") == {request.encode()}
        plane.set_route(replica, pilot)
        await plane.gateway.slots.fill("demo")
    status, text, request = await asking
    assert status == 500 and json.loads(text)["error"]["code"] == "poison"
    assert [seen.headers.get(wire.HEADER_ALONE) for seen in plane.ingress.seen] == [None, "1", "1"]
    row = await plane.ended(request)
    assert (row["state"], row["error_code"], row["crashes"]) == ("failed", "poison", 3)
    await until(lambda: not plane.redis.exists("berth:{demo}:suspects"), "no suspect left")


async def test_a_suspect_waits_for_an_empty_replica_and_nobody_joins_it(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route()
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    plane.ingress.next = [lose("crash")]
    suspect = asyncio.create_task(_answered(plane, chat(user="suspect")))
    await plane.waiting()
    # Meanwhile the restarted engine has work already: a slot of another gateway.
    plane.redis.zadd(f"berth:{{demo}}:slots:{replica}", {"other|0": 4e9})
    plane.set_route(replica, pilot)
    await plane.gateway.slots.fill("demo")
    others = [asyncio.create_task(_answered(plane, chat(user="other")))]
    await plane.waiting(2)
    assert len(plane.ingress.seen) == 1
    plane.redis.zrem(f"berth:{{demo}}:slots:{replica}", "other|0")
    await plane.gateway.slots.fill("demo")
    await until(lambda: len(plane.ingress.seen) == 2, "the suspect runs")
    assert plane.ingress.seen[1].body["user"] == "suspect"
    await plane.waiting(1)  # the other one still waits, though the replica has three more places
    plane.ingress.gate.set()
    assert [status for status, _, _ in await asyncio.gather(suspect, *others)] == [200, 200]
    assert plane.ingress.most == 1


# The client


async def test_a_client_that_leaves_takes_its_request_along(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [go_on_for_ever]
    answer = await plane.post(chat(stream=True)).__aenter__()
    await answer.content.readline()
    request = answer.headers["x-request-id"]
    answer.close()
    await until(lambda: plane.ingress.running == 0, "the engine is told")
    row = await plane.ended(request)
    assert (row["state"], row["error_code"]) == ("cancelled", "client_left")
    assert row["first_token_at"] is not None
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_client_that_leaves_the_line_is_out_of_it(plane: Plane) -> None:
    answer = await plane.post(chat(stream=True)).__aenter__()
    await answer.content.readline()
    request = answer.headers["x-request-id"]
    answer.close()
    row = await plane.ended(request)
    assert row["state"] == "cancelled"
    await until(lambda: not plane.redis.exists("berth:{demo}:wait", "berth:{demo}:owner"), "an empty line")
    assert plane.sql("SELECT count(*) FROM ledger_payload") == [(0,)]


async def test_a_granted_answer_in_one_piece_ends_at_the_engine_when_its_client_leaves(plane: Plane) -> None:
    plane.ingress.gate.clear()
    asking = asyncio.create_task(_answered(plane))
    (request,) = await plane.waiting()
    replica = await plane.open()
    await until(lambda: plane.ingress.running == 1, "it runs")
    asking.cancel()
    await until(lambda: plane.ingress.running == 0, "the engine is told")
    row = await plane.ended(request)
    assert (row["state"], row["error_code"], row["attempt"]) == ("cancelled", "client_left", 1)
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_cancel_through_the_api_ends_stream_and_engine(plane: Plane) -> None:
    from portal.ledger import transitions

    plane.ingress.next = [go_on_for_ever]
    for state in ("queued", "running"):
        async with plane.post(chat(stream=True)) as answer:
            await answer.content.readline()
            request = answer.headers["x-request-id"]
            if state == "running":
                await plane.open()
                await until(lambda: plane.ingress.running == 1, "it runs")
            await _cancel(plane, request, transitions)
            text = await answer.text()
        assert json.loads(text.strip().split("data: ")[-1])["error"]["code"] == "cancelled"
        await until(lambda: plane.ingress.running == 0, "the engine is told")
        row = await plane.ended(request)
        assert (row["state"], row["error_code"]) == ("cancelled", "cancelled")
    assert not plane.redis.exists("berth:{demo}:wait")


async def _cancel(plane: Plane, request: str, transitions: Any) -> None:
    """As the API's DELETE does it."""
    import uuid
    from datetime import UTC, datetime

    with plane.pg.cursor() as cur:
        (gone,) = transitions.cancel(cur, [uuid.UUID(request)], datetime.now(UTC), "asked")
    plane.pg.commit()
    plane.redis.publish(f"berth:gw:{gone.holder}", json.dumps({"cancel": request, "attempt": gone.attempt}))


async def test_a_row_cancelled_without_a_word_is_found_at_its_grant(plane: Plane) -> None:
    asking = asyncio.create_task(_answered(plane))
    (request,) = await plane.waiting()
    plane.sql("UPDATE ledger_request SET state = 'cancelled', ended_at = now() WHERE id = %s", (request,))
    replica = await plane.open()
    status, text, _ = await asking
    assert (status, json.loads(text)["error"]["code"]) == (409, "cancelled")
    assert not plane.ingress.seen
    await until(lambda: plane.slots(replica) == 0, "the slot free again")


async def test_a_detached_row_is_not_run_here(plane: Plane) -> None:
    asking = asyncio.create_task(_answered(plane))
    (request,) = await plane.waiting()
    plane.sql("UPDATE ledger_request SET lane = 'async', holder = NULL WHERE id = %s", (request,))
    await plane.open()
    status, text, _ = await asking
    assert (status, json.loads(text)["error"]["code"]) == (503, "detached")
    row = plane.row(request)
    assert row is not None and row["state"] == "queued" and not plane.ingress.seen


# Waiting ends


async def test_a_client_in_a_hurry_is_told_before_it_gives_up(plane: Plane) -> None:
    async with plane.post(headers={"x-stainless-read-timeout": "10.5"}) as answer:
        said = (await answer.json())["error"]
        assert (answer.status, said["code"]) == (503, "model_starting")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert "not loaded" in said["message"]
    row = await plane.ended(answer.headers["x-request-id"])
    assert (row["state"], row["error_code"]) == ("expired", "model_starting")
    await until(lambda: not plane.redis.exists("berth:{demo}:wait"), "an empty line")


async def test_those_who_wait_for_a_latched_model_are_told_why(plane: Plane) -> None:
    async with plane.post(chat(stream=True)) as answer:
        await answer.content.readline()
        plane.sql(
            """INSERT INTO fleet_poolstate (pool_id, failures, latched_at, reason)
               VALUES ('demo', 3, now(), 'The weights are not readable.')"""
        )
        plane.redis.publish("berth:directory", "changed")
        text = await answer.text()
    said = json.loads(text.strip().split("data: ")[-1])["error"]
    assert said["code"] == "model_unavailable" and "The weights are not readable." in said["message"]
    async with plane.post() as answer:
        assert (answer.status, (await answer.json())["error"]["code"]) == (503, "model_unavailable")
    assert plane.sql("SELECT count(*) FROM ledger_request WHERE ended_at IS NULL") == [(0,)]


# Redis


async def test_a_flush_while_waiting_costs_seconds_and_not_the_place(plane: Plane) -> None:
    asking = [asyncio.create_task(_answered(plane, chat(user="a")))]
    first = await plane.waiting(1)
    asking.append(asyncio.create_task(_answered(plane, chat(user="b"))))
    both = await plane.waiting(2)
    assert both[0] == first[0]
    await plane.gateway.keeper.keep_once()  # it knows this life of Redis
    plane.redis.flushall()
    assert await plane.waiting(2) == both
    await plane.open(cap=1)
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200]
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["a", "b"]


async def test_a_flush_while_running_brings_the_leases_back_and_admits_nobody_in_between(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route(cap=1)
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    running = asyncio.create_task(_answered(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    await plane.gateway.keeper.keep_once()
    plane.redis.flushall()
    second = asyncio.create_task(_answered(plane))
    await plane.waiting()  # no routes: nobody is admitted
    await until(lambda: plane.slots(replica) == 1, "the lease is back")
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
        plane.redis.zrem("berth:{demo}:wait", request)
        plane.route()
        assert "world" in await answer.text()


async def test_a_lease_in_use_outlives_its_fifteen_seconds(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route()
    asking = asyncio.create_task(_answered(plane))
    await until(lambda: plane.ingress.running == 1, "it runs")
    key = f"berth:{{demo}}:slots:{replica}"
    ((member, first),) = plane.redis.zrange(key, 0, -1, withscores=True)
    hands = plane.gateway.keeper._pools["demo"].leases
    hands[member.decode().split("|")[0]].renew_at = 0.0  # as if half its time were over
    await until(lambda: plane.redis.zscore(key, member) > first, "a later expiry")
    plane.ingress.gate.set()
    assert (await asking)[0] == 200


def test_the_fake_knows_the_real_paths() -> None:
    """The gateway's paths are ones an ingress forwards."""
    from portal.gateway.asked import APIS

    assert APIS <= wire.FORWARDED_PATHS and FakeIngress is not None
