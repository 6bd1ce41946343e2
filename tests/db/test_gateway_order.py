"""The order's scripts against real Redis: the pure rule on random histories, and what PostgreSQL gives after a flush."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import redis as redis_library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg2.extensions import connection as Connection

from portal.admission import redis_calls, reservations
from portal.admission.place import Place
from portal.admission.scripts import SCRIPTS, tag_arguments
from portal.ledger import backlog
from portal.ledger import transitions as ledger
from portal.ledger.transitions import NewRequest
from portal.policy import fairshare
from portal.policy.fairshare import Line
from portal.redis import keys

POOL = "p/q-1.5"
NOW = datetime(2026, 1, 1, tzinfo=UTC)


def _run(redis: redis_library.Redis, name: str, *args: Any) -> Any:
    return redis.eval(SCRIPTS[name].text.decode(), 1, keys.pool_prefix(POOL), *args)


def _tag(
    redis: redis_library.Redis,
    project: int,
    share: float,
    priority: int = 0,
    request: str = "",
    lane: str = "async",
) -> float:
    answer = _run(redis, "tag", *tag_arguments(lane, project, share, priority, request, None))
    if not answer:
        answer = _run(redis, "tag", *tag_arguments(lane, project, share, priority, request, Line()))
    return float(answer)


@pytest.fixture(scope="module")
def link() -> Iterator[redis_library.Redis]:
    client = redis_library.Redis.from_url(os.environ["BERTH_REDIS_URL"])
    yield client
    client.flushall()
    client.close()


steps = st.lists(
    st.one_of(
        st.tuples(st.just("tag"), st.integers(1, 4), st.floats(0.01, 5e6), st.sampled_from([-1, 0, 1])),
        st.tuples(st.just("start"), st.floats(0, 1), st.none(), st.none()),
        st.tuples(st.just("give back"), st.integers(1, 4), st.none(), st.none()),
    ),
    max_size=40,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(steps, st.floats(0, 2e9))
def test_the_script_follows_the_pure_rule(
    link: redis_library.Redis, history: list[Any], vtime: float
) -> None:
    """Bit for bit: doubles must survive Redis."""
    link.flushall()
    line = Line(vtime=vtime)
    assert _run(link, "tag", *tag_arguments("async", 1, 1.0, 0, "", None)) == b""
    _run(link, "tag", *tag_arguments("async", 1, 1.0, 0, "", line))
    _, line = fairshare.tag(line, 1, 1.0)
    given: list[float] = []
    for what, a, b, c in history:
        if what == "tag":
            key, line = fairshare.tag(line, a, b, c)
            assert _tag(link, a, b, c) == key
            given.append(key)
        elif what == "start" and given:
            key = given[int(a * (len(given) - 1))]
            line = fairshare.started(line, key)
            _run(link, "started", "async", repr(key))
        elif what == "give back":
            line = fairshare.given_back(line, a)
            _run(link, "give_back", "async", a)


def test_lanes_have_a_time_of_their_own(link: redis_library.Redis) -> None:
    """A month of batches does not push back what a person waits for."""
    link.flushall()
    _tag(link, 1, 1e9, lane="batch")
    _run(link, "started", "batch", repr(1e9))
    assert _tag(link, 1, 1.0, lane="held") == 0.0


def test_a_held_request_that_leaves_last_gives_its_projects_places_back(link: redis_library.Redis) -> None:
    link.flushall()
    for i in range(3):
        _tag(link, 1, 100.0, request=f"r{i}", lane="held")
    for i in range(2):
        _run(link, "release", 3, "", 1, *Place(POOL, f"r{i}").arguments())
    assert _tag(link, 1, 100.0, request="r3", lane="held") == 300.0, "one of the project still waits"
    _run(link, "release", 3, "", 1, *Place(POOL, "r2").arguments())
    _run(link, "release", 3, "", 1, *Place(POOL, "r3").arguments())
    assert _tag(link, 1, 100.0, request="r4", lane="held") < 1.0
    assert not link.hexists(keys.PROJECTS.of(POOL), "r2")


def test_a_grant_moves_the_virtual_time(link: redis_library.Redis) -> None:
    link.flushall()
    link.hset(keys.ROUTES.of(POOL), "r", '{"state": "hot", "cap": 2, "transport": "t", "pilot": "p"}')
    ear: Any = link.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with ear:
        ear.subscribe(keys.GATEWAY.of("g"))
        ear.get_message(timeout=2)
        for i in range(2):
            key = _tag(link, 1, 50.0, request=f"r{i}", lane="held")
            assert _run(link, "enqueue", 3, repr(key), "g", *Place(POOL, f"r{i}").arguments()) == 1
    assert float(link.hget(keys.VTIME.of(POOL), "held") or 0) == 50.0
    assert not link.exists(keys.PROJECTS.of(POOL), keys.LINE.of(POOL, 1))
    assert 50.0 <= _tag(link, 2, 1.0, lane="held") < 51.0


def _new(key: float, project: int = 1, lane: str = "async", **changes: Any) -> NewRequest:
    values: dict[str, Any] = {
        "id": uuid.uuid4(), "pool": POOL, "model": "m", "project_id": project, "user_id": 1, "token_id": None,
        "api": "/v1/completions", "stream": False, "lane": lane, "order_key": key,
        "holder": None, "accepted_at": NOW, "body": b"{}",
    }  # fmt: skip
    return NewRequest(**{**values, **changes})


def test_after_a_flush_no_new_request_comes_before_those_that_wait(
    pg: Connection, redis: redis_library.Redis
) -> None:
    with pg.cursor() as cur:
        ledger.accept(cur, [_new(500.0), _new(900.0), _new(700.0, project=2)])
        (mine,) = reservations.reserve(cur, POOL, "async", 1, [10.0])
        (again,) = reservations.reserve(cur, POOL, "async", 1, [10.0])
        (other,) = reservations.reserve(cur, POOL, "async", 2, [10.0])
        (idle,) = reservations.reserve(cur, POOL, "async", 3, [10.0])
    assert (mine, again, other, idle) == (901.0, 911.0, 701.0, 500.0)


def test_without_redis_the_place_comes_from_the_ledger(
    pg: Connection, redis: redis_library.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = redis_library.Redis.from_url("redis://127.0.0.1:1/0", retry=None)
    monkeypatch.setattr(redis_calls, "_redis", lambda: away)
    with pg.cursor() as cur:
        ledger.accept(cur, [_new(500.0), _new(900.0)])
        assert reservations.reserve(cur, POOL, "async", 1, [10.0, 20.0]) == [901.0, 911.0]
        assert reservations.reserve(cur, POOL, "async", 2, [10.0]) == [500.0]
        reservations.give_back(cur, [uuid.uuid4()])


def test_a_cancelled_backlog_gives_its_places_back(pg: Connection, redis: redis_library.Redis) -> None:
    with pg.cursor() as cur:
        rows = [_new(key) for key in reservations.reserve(cur, POOL, "async", 1, [100.0] * 20)]
        ledger.accept(cur, rows)
        ledger.cancel(cur, [row.id for row in rows[:19]], NOW, "test")
        reservations.give_back(cur, [row.id for row in rows[:19]])
        assert reservations.reserve(cur, POOL, "async", 1, [1.0]) == [2000.0], "one still waits"
        ledger.cancel(cur, [rows[19].id], NOW, "test")
        reservations.give_back(cur, [rows[19].id])
        assert reservations.reserve(cur, POOL, "async", 1, [1.0])[0] < 1.0


def test_the_furthest_of_a_claim_is_told_by_line(pg: Connection) -> None:
    with pg.cursor() as cur:
        rows = [_new(key) for key in (3.0, 9.0, 5.0)]
        ledger.accept(cur, rows)
        assert backlog.furthest(cur, [row.id for row in rows]) == [(POOL, "async", 9.0)]
