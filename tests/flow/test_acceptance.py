"""The rule of acceptance through all who take requests that nobody waits for: one table, the same verdict from each."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import redis as redis_library

from portal.admission import quotas, reservations
from portal.admission.pipe import QueueDown
from portal.redis import keys
from tests.flow import batch_world
from tests.flow.dataplane import Plane, chat, until

REFUSED = "rate_limit_exceeded"
ABSENT = "model_not_found"
TOKENS = 100_000  # so many of the answer that the prompt's few do not matter


# Who takes requests. Each hands one in and says what became of it: its state, or the code of the refusal.


async def _async(plane: Plane, model: str) -> str:
    body = chat(model=model, max_tokens=TOKENS)
    async with plane.post(body, headers={"Prefer": "respond-async"}) as answer:
        return _verdict(await answer.json())


async def _background(plane: Plane, model: str) -> str:
    body = {"model": model, "input": "hi", "background": True, "max_output_tokens": TOKENS}
    async with plane.post(body, "/v1/responses") as answer:
        told = await answer.json()
    if "status" not in told:
        return _verdict(told)
    row = plane.row(told["id"].removeprefix("resp_"))
    assert row is not None
    return str(row["state"])


async def _api(plane: Plane, model: str) -> str:
    body = {"messages": [{"role": "user", "content": "hi"}], "max_tokens": TOKENS}
    said = {"model": model, "api": batch_world.CHAT, "body": body}
    kind = {"Content-Type": "application/json"}
    async with plane.post(said, "/api/v1/requests", headers=kind) as answer:
        return _verdict(await answer.json())


async def _batch(plane: Plane, model: str) -> str:
    """Hand in a batch of one line. One that is refused stands in the batch's errors, or is why the whole of it is."""
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], "max_tokens": TOKENS}
    batch = await batch_world.create(plane, batch_world.jsonl(batch_world.line("a", body=body)))
    await batch_world.look(plane)
    told = await batch_world.state(plane, batch.id)
    if told.status == "failed":
        assert told.errors and told.errors.data
        return str(told.errors.data[0].code)
    ((state,),) = plane.sql(
        "SELECT state FROM ledger_request WHERE batch_id = %s", (batch.id.removeprefix("batch_"),)
    )
    return str(state)


CALLERS: dict[str, Callable[[Plane, str], Awaitable[str]]] = {
    "gateway async": _async,
    "background": _background,
    "API": _api,
    "batch line": _batch,
}


def _verdict(told: dict[str, Any]) -> str:
    return str(told["error"]["code"] if told.get("error") else told["state"])


# What the scene is like


@dataclasses.dataclass(frozen=True)
class Case:
    """A line of the table. `before`: handed in by the same caller first. `sets`: SQL. `spent`: the project's rate
    that has nothing left."""

    verdict: str
    model: str = "demo"
    before: int = 0
    sets: tuple[str, ...] = ()
    limit: dict[str, int] = dataclasses.field(default_factory=dict)
    level: str = "project"
    spent: str = ""
    no_redis: bool = False


HELD_BACK = "INSERT INTO fleet_poolstate (pool_id, failures, latched_at, reason) VALUES ('demo', 3, now(), 'No weights.')"
PAUSED_FLEET = """INSERT INTO fleet_cluster (name, paused, orphans, partitions, reservations)
                  VALUES ('main', true, '{}', '{}', '[]')"""

TABLE = {
    "a model that may be used": Case("queued"),
    "an unknown model": Case(ABSENT, "nobody-knows-it"),
    "a model of other projects": Case(ABSENT, "hidden"),
    "a disabled model": Case(ABSENT, sets=("UPDATE catalog_model SET enabled = false WHERE name = 'demo'",)),
    "a held-back model": Case("queued", sets=(HELD_BACK,)),
    "a paused pool": Case("queued", sets=("UPDATE catalog_pool SET paused = true",)),
    "a paused fleet": Case("queued", sets=(PAUSED_FLEET,)),
    "room under the queued limit": Case("queued", limit={"queued": 2}, before=1),
    "over the project's queued limit": Case(REFUSED, limit={"queued": 1}, before=1),
    "over the token's queued limit": Case(REFUSED, limit={"queued": 1}, before=1, level="token"),
    "over the user's queued limit": Case(REFUSED, limit={"queued": 1}, before=1, level="user"),
    "over the model's queued limit": Case(REFUSED, limit={"queued": 1}, before=1, level="model"),
    "over the requests of a minute": Case("parked", limit={"requests_per_min": 10}, spent="requests"),
    "over the tokens of a minute": Case("parked", limit={"tokens_per_min": 10}, spent="tokens"),
    "what is parked counts as waiting": Case(
        REFUSED, limit={"requests_per_min": 10, "queued": 1}, spent="requests", before=1
    ),
    "Redis away": Case("queued", no_redis=True),
    "Redis away and a rate": Case("parked", limit={"requests_per_min": 10}, no_redis=True),
}


@pytest.mark.parametrize("case", TABLE.values(), ids=TABLE.keys())
async def test_all_come_to_the_same_verdict(
    with_pages: Plane, case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    plane = with_pages
    await _set_the_scene(plane, case)
    if case.no_redis:
        _take_redis_away(plane, monkeypatch)
    verdicts, rows = {}, {}
    for name, hand_in in CALLERS.items():
        _clean(plane)
        if case.spent:
            plane.redis.set(keys.LIMIT.of("project", plane.seeded.project, case.spent), time.time() + 60)
        for _ in range(case.before):
            assert await hand_in(plane, case.model) in ("queued", "parked")
        verdicts[name] = await hand_in(plane, case.model)
        rows[name] = plane.sql("SELECT count(*) FROM ledger_request")[0][0]
    assert verdicts == dict.fromkeys(CALLERS, case.verdict)
    assert rows == dict.fromkeys(CALLERS, case.before + (case.verdict in ("queued", "parked")))


async def test_all_take_the_members_priority_and_the_projects_share(with_pages: Plane) -> None:
    plane = with_pages
    plane.sql("UPDATE accounts_membership SET priority = 1")
    plane.sql("UPDATE accounts_project SET weight = 4")
    await _read_anew(plane)
    for name, hand_in in CALLERS.items():
        _clean(plane)
        assert await hand_in(plane, "demo") == "queued", name
        ((priority, key, lane),) = plane.sql("SELECT priority, order_key, lane FROM ledger_request")
        finish: Any = plane.redis.hget(keys.TAGS.of("demo"), f"{lane}:{plane.seeded.project}:1")
        assert priority == 1, name
        assert float(finish) - key == pytest.approx(TOKENS / 4, rel=0.01), name


async def test_they_count_each_others_requests(with_pages: Plane) -> None:
    plane = with_pages
    await _set_the_scene(plane, Case("", limit={"queued": 4}))
    for name, hand_in in CALLERS.items():
        assert await hand_in(plane, "demo") == "queued", name
    for name, hand_in in CALLERS.items():
        assert await hand_in(plane, "demo") == REFUSED, name


async def test_of_many_at_once_no_more_come_in_than_may_wait(with_pages: Plane) -> None:
    plane = with_pages
    await _set_the_scene(plane, Case("", limit={"queued": 2, "requests_per_min": 100}))
    batch = await batch_world.create(plane, batch_world.jsonl(batch_world.line("a")))
    verdicts = await asyncio.gather(
        batch_world.look(plane),
        *(hand_in(plane, "demo") for hand_in in (_async, _background, _api) for _ in range(6)),
    )
    told = await batch_world.state(plane, batch.id)
    verdicts[0] = REFUSED if told.status == "failed" else "queued"
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(2,)]
    assert (len(verdicts), verdicts.count(REFUSED)) == (19, 17)


async def test_whoever_is_counted_out_in_the_last_moment_gets_its_rates_back(
    with_pages: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the first look of the gateway and the write of its row another one comes."""
    plane = with_pages
    await _set_the_scene(plane, Case("", limit={"queued": 1, "requests_per_min": 100}))
    reserve = plane.gateway.slots.tag

    async def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(plane.gateway.slots, "tag", reserve)
        assert await _api(plane, "demo") == "queued"
        return await reserve(*args)

    monkeypatch.setattr(plane.gateway.slots, "tag", overtaken)
    assert await _async(plane, "demo") == REFUSED
    assert plane.sql("SELECT count(*) FROM ledger_request") == [(1,)]
    key = keys.LIMIT.of("project", plane.seeded.project, "requests")

    def taken_s() -> float:
        found: Any = plane.redis.get(key)
        return float(found or 0) - time.time()

    await until(lambda: taken_s() <= 60 / 100, "one of two requests to be given back")


async def test_whoever_is_counted_out_while_its_rate_refuses_is_given_nothing(
    with_pages: Plane, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would have been parked: nothing was taken for it, and giving it back would open the limit to others."""
    plane = with_pages
    await _set_the_scene(plane, Case("", limit={"queued": 1, "requests_per_min": 1}))
    bucket = keys.LIMIT.of("project", plane.seeded.project, "requests")
    full_at = time.time() + 50
    plane.redis.set(bucket, full_at)
    reserve = plane.gateway.slots.tag

    async def overtaken(*args: Any) -> Any:
        monkeypatch.setattr(plane.gateway.slots, "tag", reserve)
        assert await _api(plane, "demo") == "parked"
        return await reserve(*args)

    given_back: list[Any] = []
    monkeypatch.setattr(plane.gateway.slots, "tag", overtaken)
    monkeypatch.setattr(plane.gateway.slots, "settle", lambda *args: given_back.append(args))
    assert await _async(plane, "demo") == REFUSED
    assert given_back == []
    left: Any = plane.redis.get(bucket)
    assert float(left) == pytest.approx(full_at)


async def _set_the_scene(plane: Plane, case: Case) -> None:
    for text in case.sets:
        plane.sql(text)
    if case.limit:
        column, subject = {
            "project": ("project_id", plane.seeded.project),
            "token": ("token_id", plane.seeded.token_pk),
            "user": ("user_id", plane.seeded.user),
            "model": ("model", "demo"),
        }[case.level]
        names = ", ".join(["level", column, *case.limit])
        marks = ", ".join(["%s"] * (2 + len(case.limit)))
        plane.sql(
            f"INSERT INTO accounts_quota ({names}) VALUES ({marks})",
            (case.level, subject, *case.limit.values()),
        )
    await _read_anew(plane)


async def _read_anew(plane: Plane) -> None:
    """Wait until the gateway has read what was changed before this call."""
    async with plane.client.get(plane.url + "/v1/models", headers=plane.headers()) as answer:
        assert answer.status == 200  # it knows the token now
    began = time.monotonic()
    plane.gateway.directory.refresh_soon()
    await until(lambda: plane.gateway.directory.snapshot.read_at > began, "the directory")


def _clean(plane: Plane) -> None:
    plane.sql("TRUNCATE ledger_request, ledger_batch CASCADE")
    of_pool = plane.redis.keys(keys.pool_prefix("demo") + ":*")
    if stale := of_pool + plane.redis.keys(keys.LIMIT.of("*", "*", "*")):
        plane.redis.delete(*stale)


def _take_redis_away(plane: Plane, monkeypatch: pytest.MonkeyPatch) -> None:
    async def down(*_: Any) -> Any:
        raise QueueDown("away")

    def silent(*_: Any) -> Any:
        raise redis_library.ConnectionError("away")

    for asked in ("tag", "limit"):
        monkeypatch.setattr(plane.gateway.slots, asked, down)
    monkeypatch.setattr(reservations, "run", silent)
    monkeypatch.setattr(quotas, "run", silent)
