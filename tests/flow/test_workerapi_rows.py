"""Async rows: leased by pilots with room, ended by their results, given back when they are lost on the way."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

from gpuworker import wire
from portal.ledger import transitions
from portal.redis import keys
from tests.flow.dataplane import Plane, chat, until
from tests.flow.pilot_client import Pilot, registered, seen


def _put(plane: Plane, n: int = 1, text: str = "hi", crashes: int = 0) -> list[str]:
    """Accept async rows, as the API does."""
    now = datetime.now(UTC)
    ids = [uuid.uuid4() for _ in range(n)]
    rows = [
        transitions.NewRequest(
            id=id_,
            pool="demo",
            model="demo",
            project_id=plane.seeded.project,
            user_id=plane.seeded.user,
            token_id=None,
            api="/v1/chat/completions",
            stream=False,
            lane="async",
            order_key=now.timestamp() + i / 1000,  # before whatever is put next
            holder=None,
            accepted_at=now,
            body=json.dumps(chat(messages=[{"role": "user", "content": text}])).encode(),
            crashes=crashes,
        )
        for i, id_ in enumerate(ids)
    ]
    with plane.pg.cursor() as cur:
        transitions.accept(cur, rows)
    plane.pg.commit()
    return [str(id_) for id_ in ids]


async def _hot(plane: Plane) -> tuple[Pilot, str]:
    pilot, replica = registered(plane)
    assert (await pilot.sync(seen(replica)))[0] == 200
    return pilot, replica


async def _lease(pilot: Pilot, replica: str, room: int = 4, wait_s: float = 0.0) -> list[dict[str, Any]]:
    ask = wire.LeaseAsk(pilot=pilot.id, room={replica: room}, wait_s=wait_s)
    status, said = await pilot.call("lease", wire.dumps(ask))
    assert status == 200, said
    rows: list[dict[str, Any]] = said["rows"]
    return rows


def _result(row: dict[str, Any], outcome: wire.Outcome = "done", **changes: Any) -> wire.RowResult:
    said: dict[str, Any] = {
        "request": row["request"],
        "attempt": row["attempt"],
        "outcome": outcome,
        "status": 200,
        "body": b'{"choices": []}',
        "error_code": "",
        "crashed": False,
        "first_token_at": time.time(),
        "ended_at": time.time(),
        "prompt_tokens": 3,
        "completion_tokens": 4,
    }
    return wire.RowResult(**(said | changes))


async def _send(pilot: Pilot, *results: wire.RowResult) -> dict[str, Any]:
    status, said = await pilot.call("results", wire.dumps(wire.Results(pilot.id, list(results))))
    assert status == 200, said
    answer: dict[str, Any] = said
    return answer


async def test_rows_go_out_in_order_and_no_more_than_there_is_room(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    ids = _put(plane, 3)
    rows = await _lease(pilot, replica, room=2)
    assert [row["request"] for row in rows] == ids[:2]
    assert {row["replica"] for row in rows} == {replica}
    assert json.loads(rows[0]["body"])["model"] == "demo"
    row = plane.row(ids[0])
    assert row is not None and (row["state"], row["holder"], row["attempt"]) == ("running", pilot.id, 1)
    assert [row["request"] for row in await _lease(pilot, replica)] == ids[2:]


async def test_what_ran_a_row_is_on_it(plane: Plane) -> None:
    plane.sql("UPDATE catalog_model SET revision = 'weights-1' WHERE name = 'demo'")
    pilot, replica = registered(plane)
    plane.sql("UPDATE fleet_pilot SET gpu_type = 'a100' WHERE id = %s", (pilot.id,))
    assert (await pilot.sync(seen(replica, engine_version="0.32")))[0] == 200
    (id_,) = _put(plane)
    await _send(pilot, _result((await _lease(pilot, replica))[0]))
    row = plane.row(id_)
    assert row is not None and row["state"] == "done"
    assert (row["revision"], row["engine_version"], row["gpu_type"]) == ("weights-1", "0.32", "a100")


async def test_a_poll_waits_and_a_hint_ends_the_wait(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    polling = asyncio.create_task(_lease(pilot, replica, wait_s=20))
    hints = plane.app.worker_api._hints  # type: ignore[union-attr]
    await until(lambda: hints._waiting.get("demo"), "the poll listens")
    await until(lambda: plane.redis.pubsub_numpat() > 0, "the subscription")
    (id_,) = _put(plane)
    began = time.monotonic()
    plane.redis.publish(keys.ROWS.of("demo"), "look")
    assert [row["request"] for row in await polling] == [id_]
    assert time.monotonic() - began < 5


async def test_a_poll_without_a_hint_looks_by_itself(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    polling = asyncio.create_task(_lease(pilot, replica, wait_s=20))
    hints = plane.app.worker_api._hints  # type: ignore[union-attr]
    await until(lambda: hints._waiting.get("demo"), "the poll listens")
    (id_,) = _put(plane)
    assert [row["request"] for row in await polling] == [id_]


async def test_a_poll_with_nothing_to_do_comes_back_empty(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    assert await _lease(pilot, replica, wait_s=0.2) == []


async def test_only_hot_replicas_of_this_pilot_get_rows(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    _put(plane)
    foreign = plane.new_replica(plane.new_pilot(), "hot")
    assert await _lease(pilot, foreign) == []
    plane.sql("UPDATE fleet_replica SET state = 'draining', draining_at = now() WHERE id = %s", (replica,))
    assert await _lease(pilot, replica) == []
    plane.sql("UPDATE fleet_replica SET state = 'hot' WHERE id = %s", (replica,))
    plane.sql("UPDATE fleet_pilot SET state = 'draining', draining_at = now() WHERE id = %s", (pilot.id,))
    assert await _lease(pilot, replica) == []


async def test_two_pilots_never_get_the_same_row(plane: Plane) -> None:
    one, first = await _hot(plane)
    id_ = plane.new_pilot(job_id=78)
    plane.sql("UPDATE fleet_pilot SET agent_job_id = 78 WHERE id = %s", (id_,))
    two, second = Pilot(plane, id_, 78), plane.new_replica(id_, "hot")
    ids = _put(plane, 20)
    got = await asyncio.gather(
        *(_lease(p, r, room=3) for _ in range(5) for p, r in ((one, first), (two, second)))
    )
    leased = [row["request"] for rows in got for row in rows]
    assert len(leased) == len(set(leased)) == 20 and set(leased) == set(ids)


async def test_a_poller_that_leaves_takes_no_row_along(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    polling = asyncio.create_task(_lease(pilot, replica, wait_s=20))
    hints = plane.app.worker_api._hints  # type: ignore[union-attr]
    await until(lambda: hints._waiting.get("demo"), "the poll listens")
    polling.cancel()
    await until(lambda: not hints._waiting, "the poll is over")
    (id_,) = _put(plane)
    row = plane.row(id_)
    assert row is not None and (row["state"], row["attempt"]) == ("queued", 0)


async def test_results_end_rows_once(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    good, bad = _put(plane, 2)
    rows = {row["request"]: row for row in await _lease(pilot, replica)}
    envelope = '{"error": {"message": "SECRET words", "type": "BadRequestError"}}'
    said = await _send(
        pilot,
        _result(rows[good]),
        _result(rows[bad], "failed", status=400, body=envelope, error_code="engine_rejected"),
    )
    assert (sorted(said["taken"]), said["late"]) == (sorted([good, bad]), [])
    done, failed = await plane.ended(good), await plane.ended(bad)
    assert (done["state"], done["prompt_tokens"], done["completion_tokens"]) == ("done", 3, 4)
    assert (failed["state"], failed["error_code"], failed["http_status"]) == (
        "failed",
        "engine_rejected",
        400,
    )
    assert "SECRET" not in json.dumps(failed)
    results = dict(plane.sql("SELECT request::text, result FROM ledger_payload"))
    assert bytes(results[good]) == b'{"choices": []}' and b"SECRET" in bytes(results[bad])
    again = await _send(pilot, _result(rows[good], body="{}"))
    assert (again["taken"], again["late"]) == ([], [good])


async def test_a_late_result_of_an_earlier_attempt_is_dropped(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    (id_,) = _put(plane)
    (first,) = await _lease(pilot, replica)
    await _send(pilot, _result(first, "back", error_code="drained"))
    (second,) = await _lease(pilot, replica)
    assert (second["request"], second["attempt"]) == (id_, 2)
    assert (await _send(pilot, _result(first, body="stale")))["late"] == [id_]
    row = plane.row(id_)
    assert row is not None and (row["state"], row["attempt"]) == ("running", 2)
    # Nor may another pilot end it, though it names the right attempt.
    other = Pilot(plane, plane.new_pilot())
    assert (await _send(other, _result(second)))["late"] == [id_]
    assert (await _send(pilot, _result(second)))["taken"] == [id_]


async def test_what_comes_back_keeps_its_place_and_only_a_crash_counts(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    first, _ = _put(plane, 2)
    for crashed, crashes in ((False, 0), (True, 1)):
        (row,) = await _lease(pilot, replica, room=1)
        assert row["request"] == first
        await _send(pilot, _result(row, "back", error_code="gone", crashed=crashed))
        found = plane.row(first)
        assert found is not None and (found["state"], found["crashes"]) == ("queued", crashes)
    # It is a suspect now: others go first, and it goes alone, to an idle replica.
    (row,) = await _lease(pilot, replica)
    assert row["request"] != first and row["alone"] is False
    assert await _lease(pilot, replica, room=3) == []
    (row,) = await _lease(pilot, replica, room=4)
    assert row["request"] == first and row["alone"] is True
    await _send(pilot, _result(row, "back", crashed=True))
    (row,) = await _lease(pilot, replica)
    await _send(pilot, _result(row, "back", crashed=True))
    assert (await plane.ended(first))["error_code"] == "poison"


async def test_rows_that_a_pilot_does_not_have_go_back_after_a_while(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    lost, kept, young = _put(plane, 3)
    rows = {row["request"]: row for row in await _lease(pilot, replica)}
    old = datetime.now(UTC) - timedelta(seconds=40)
    plane.sql("UPDATE ledger_request SET granted_at = %s WHERE id = ANY(%s::uuid[])", (old, [lost, kept]))
    has = [wire.RowRef(kept, rows[kept]["attempt"])]
    await pilot.sync(seen(replica), rows=has)
    states = {id_: (plane.row(id_) or {})["state"] for id_ in (lost, kept, young)}
    assert states == {lost: "queued", kept: "running", young: "running"}
    # A node whose clock runs ahead does not lose the young one.
    await pilot.sync(seen(replica), rows=has, at=time.time() + 3600)
    assert (plane.row(young) or {})["state"] == "running"


async def test_a_row_that_nobody_wants_any_more_is_cancelled_at_its_pilot(plane: Plane) -> None:
    pilot, replica = await _hot(plane)
    gone, stays = _put(plane, 2)
    rows = {row["request"]: row for row in await _lease(pilot, replica)}
    with plane.pg.cursor() as cur:
        transitions.cancel(cur, [uuid.UUID(gone)], datetime.now(UTC), "asked")
    plane.pg.commit()
    has = [wire.RowRef(id_, rows[id_]["attempt"]) for id_ in (gone, stays)]
    _, said = await pilot.sync(seen(replica), rows=has)
    assert said["cancels"] == [{"request": gone, "attempt": 1}]
    assert (await _send(pilot, _result(rows[gone])))["late"] == [gone]
    assert (plane.row(gone) or {})["state"] == "cancelled"
