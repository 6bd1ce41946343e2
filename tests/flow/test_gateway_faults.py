"""What goes wrong between gateway, ingress and Redis: each request still ends well, once."""

from __future__ import annotations

import asyncio
import json
from functools import partial
from itertools import pairwise

from gpuworker import wire
from portal.redis import keys
from tests.flow.dataplane import Plane, answered, both_links, chat, until
from tests.flow.fake_ingress import break_off, lose, refuse

pytestmark = both_links


def _tried(plane: Plane, times: int) -> bool:
    return len(plane.ingress.seen) == times


# Refused: no engine has seen it


async def test_a_hot_request_that_is_refused_becomes_an_accepted_one_and_runs_elsewhere(plane: Plane) -> None:
    first, second = plane.route(), plane.route()
    plane.ingress.next = [refuse("draining")]
    status, text, request = await answered(plane)
    assert status == 200 and "hello world" in text
    one, two = plane.ingress.seen
    assert one.headers[wire.HEADER_REPLICA] != two.headers[wire.HEADER_REPLICA]
    assert (one.attempt, two.attempt) == (0, 1)
    row = await plane.ended(request)
    assert (row["state"], row["attempt"], row["replica"]) == ("done", 1, two.headers[wire.HEADER_REPLICA])
    # The one that drains is out of the routes; neither holds a slot.
    assert plane.redis.hkeys(keys.ROUTES.of("demo")) == [two.headers[wire.HEADER_REPLICA].encode()]
    await until(lambda: plane.slots(first) + plane.slots(second) == 0, "no slot in use")


async def test_a_granted_request_that_is_refused_keeps_its_place(plane: Plane) -> None:
    plane.ingress.next = [refuse("draining")]
    asking = [asyncio.create_task(answered(plane, chat(user="first")))]
    (request,) = await plane.waiting(1)
    key = plane.redis.zscore(keys.WAIT.of("demo"), request)
    asking.append(asyncio.create_task(answered(plane, chat(user="second"))))
    await plane.waiting(2)
    await plane.open(cap=1)  # refuses the first, and is taken out of the routes
    await until(lambda: ("requeue", "refused: draining") in plane.events(request), "back in line")
    assert await plane.waiting(2)
    assert plane.redis.zscore(keys.WAIT.of("demo"), request) == key
    await plane.open(cap=1)
    assert [status for status, _, _ in await asyncio.gather(*asking)] == [200, 200]
    assert [seen.body["user"] for seen in plane.ingress.seen] == ["first", "first", "second"]
    assert [seen.attempt for seen in plane.ingress.seen] == [1, 2, 1]


async def test_a_full_replica_stays_routed_and_is_not_asked_in_a_tight_loop(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [refuse("full")] * 4
    status, _, request = await answered(plane)
    assert status == 200
    assert plane.redis.hexists(keys.ROUTES.of("demo"), replica)
    times = [
        at.timestamp()
        for (at,) in plane.sql(
            "SELECT at FROM ledger_requestevent WHERE request_id = %s ORDER BY at", (request,)
        )
    ]
    assert len(times) == 3  # the first refusal came before it was accepted
    assert all(later - earlier > 0.2 for earlier, later in pairwise(times))


async def test_an_ingress_that_is_gone_is_taken_out_of_the_routes(plane: Plane) -> None:
    gone = plane.route(url="http://127.0.0.1:9")
    asking = asyncio.create_task(answered(plane))
    await plane.waiting()
    assert not plane.redis.hexists(keys.ROUTES.of("demo"), gone)
    await plane.open()
    assert (await asking)[0] == 200


async def test_a_wrong_key_is_our_fault_and_ends_the_request(plane: Plane) -> None:
    plane.route()
    plane.ingress.next = [refuse("key", 401)]
    status, text, request = await answered(plane)
    assert status == 500 and json.loads(text)["error"]["code"] == "internal"
    assert (await plane.ended(request))["state"] == "failed"


# Lost: an engine had it


async def test_lost_before_the_first_byte_is_tried_again_in_silence(plane: Plane) -> None:
    plane.route()
    plane.route()
    for loss in (lose("gone"), break_off(0)):
        plane.ingress.next = [loss]
        status, text, request = await answered(plane, chat(stream=True))
        assert status == 200 and "error" not in text and "world" in text
        row = await plane.ended(request)
        assert (row["state"], row["crashes"]) == ("done", 0)
        for pilot, replica in plane.sql("SELECT pilot_id::text, id::text FROM fleet_replica"):
            plane.set_route(replica, pilot)


async def test_lost_in_the_middle_is_an_error_event_and_never_a_spliced_answer(plane: Plane) -> None:
    replica = plane.route()
    plane.ingress.next = [break_off(2)]
    status, text, request = await answered(plane, chat(stream=True))
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
    asking = asyncio.create_task(answered(plane))
    for tries in (1, 2):
        await until(partial(_tried, plane, tries), f"try {tries}")
        (request,) = await plane.waiting()
        assert plane.redis.smembers(keys.SUSPECTS.of("demo")) == {request.encode()}
        plane.set_route(replica, pilot)
        await plane.gateway.slots.fill("demo")
    status, text, request = await asking
    assert status == 500 and json.loads(text)["error"]["code"] == "poison"
    assert [seen.headers.get(wire.HEADER_ALONE) for seen in plane.ingress.seen] == [None, "1", "1"]
    row = await plane.ended(request)
    assert (row["state"], row["error_code"], row["crashes"]) == ("failed", "poison", 3)
    await until(lambda: not plane.redis.exists(keys.SUSPECTS.of("demo")), "no suspect left")


async def test_a_suspect_waits_for_an_empty_replica_and_nobody_joins_it(plane: Plane) -> None:
    plane.ingress.gate.clear()
    replica = plane.route()
    pilot = plane.sql("SELECT pilot_id::text FROM fleet_replica")[0][0]
    plane.ingress.next = [lose("crash")]
    suspect = asyncio.create_task(answered(plane, chat(user="suspect")))
    await plane.waiting()
    # Meanwhile the restarted engine has work already: a slot of another gateway.
    plane.redis.zadd(keys.SLOTS.of("demo", replica), {"other|0": 4e9})
    plane.set_route(replica, pilot)
    await plane.gateway.slots.fill("demo")
    others = [asyncio.create_task(answered(plane, chat(user="other")))]
    await plane.waiting(2)
    assert len(plane.ingress.seen) == 1
    plane.redis.zrem(keys.SLOTS.of("demo", replica), "other|0")
    await plane.gateway.slots.fill("demo")
    await until(lambda: len(plane.ingress.seen) == 2, "the suspect runs")
    assert plane.ingress.seen[1].body["user"] == "suspect"
    await plane.waiting(1)  # the other one still waits, though the replica has three more places
    plane.ingress.gate.set()
    assert [status for status, _, _ in await asyncio.gather(suspect, *others)] == [200, 200]
    assert plane.ingress.most == 1
