"""The limits' scripts against real Redis: the pure rule on random histories, all levels or none, leases that expire."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from portal.admission.place import Place
from portal.admission.scripts import (
    SCRIPTS,
    enter_arguments,
    keep_arguments,
    leave_arguments,
    limit_arguments,
    read_limits,
    settle_arguments,
)
from portal.admission.subjects import key_of
from portal.policy.limits import Want, rate, settled
from portal.redis import keys

POOL = "p"
NOW = 1.8e9


@pytest.fixture(scope="module")
def link() -> Iterator[redis_library.Redis]:
    client = redis_library.Redis.from_url(os.environ["BERTH_REDIS_URL"])
    yield client
    client.flushall()
    client.close()


def _run(redis: redis_library.Redis, name: str, *args: Any) -> Any:
    return redis.eval(SCRIPTS[name].text.decode(), 0, *args)


def _take(
    redis: redis_library.Redis,
    wants: list[Want],
    request: str = "r",
    now: float | None = None,
    lease_s: float = 20.0,
) -> tuple[Want | None, float, list[tuple[int, float]]]:
    at = "" if now is None else repr(now)
    return read_limits(_run(redis, "limit", *limit_arguments(request, wants, at, lease_s)), wants)


def _requests(limit: int, subject: str = "1") -> Want:
    return Want("token", subject, "requests", limit, 1)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.integers(1, 3000),
    st.lists(st.tuples(st.floats(0, 30), st.integers(1, 2000), st.integers(-500, 500)), max_size=15),
)
def test_the_script_follows_the_pure_rule(
    link: redis_library.Redis, limit: int, history: list[tuple[float, int, int]]
) -> None:
    link.flushall()
    now, full_at = NOW, None
    for pause_s, cost, more in history:
        now += pause_s
        want = Want("project", "7", "tokens", limit, cost)
        expected = rate(full_at, limit, cost, now)
        refused, retry_s, left = _take(link, [want], now=now)
        assert (refused is not None, retry_s) == (expected.retry_s > 0, expected.retry_s)
        assert left == [(expected.remaining, expected.reset_s)]
        full_at = expected.full_at
        if refused is None:
            used = min(cost, limit) + more
            _run(link, "settle", *settle_arguments("r", [want], used, repr(now)))
            full_at = settled(full_at, limit, more, now)


def test_a_refusal_at_one_level_takes_nothing_at_the_others(link: redis_library.Redis) -> None:
    link.flushall()
    full = Want("project", "7", "requests", 1, 1)
    count = Want("user", "2", "concurrent", 5, 1)
    assert _take(link, [full])[0] is None
    refused, retry_s, _ = _take(link, [_requests(10), count, full])
    assert refused == full and 59 < retry_s <= 60
    assert not link.exists(key_of(_requests(10)), key_of(count))


def test_the_one_that_takes_longest_to_refill_is_named(link: redis_library.Redis) -> None:
    link.flushall()
    slow, fast = _requests(1), _requests(60, "2")
    _take(link, [slow])
    for _ in range(60):
        _take(link, [fast])
    assert _take(link, [fast, slow])[0] == slow


def test_what_is_counted_comes_back_when_it_ends_or_its_gateway_died(link: redis_library.Redis) -> None:
    link.flushall()
    want = Want("token", "1", "concurrent", 2, 1)
    assert _take(link, [want], "a", NOW)[0] is None
    assert _take(link, [want], "b", NOW)[0] is None
    assert _take(link, [want], "b", NOW)[0] is None, "the same request counts once"
    assert _take(link, [want], "c", NOW)[0] == want
    _run(link, "settle", *settle_arguments("a", [want], 0, repr(NOW)))
    assert _take(link, [want], "c", NOW + 1)[0] is None
    assert _take(link, [want], "d", NOW + 20.5)[0] is None, "b's lease has run out"
    assert _take(link, [want], "e", NOW + 20.5)[0] == want


def test_a_lease_that_is_kept_does_not_run_out(link: redis_library.Redis) -> None:
    link.flushall()
    want = Want("token", "1", "concurrent", 1, 1)
    _take(link, [want], "a", lease_s=0.05)
    _run(link, "keep", *keep_arguments([(want, "a")]))
    assert link.zscore(key_of(want), "a") > NOW - 1e9  # type: ignore[operator]
    assert _take(link, [want], "b")[0] == want


def test_a_full_bucket_leaves_no_key(link: redis_library.Redis) -> None:
    link.flushall()
    want = Want("token", "1", "tokens", 100, 50)
    _take(link, [want])
    assert 0 < int(link.ttl(key_of(want))) <= 32
    _run(link, "settle", *settle_arguments("r", [want], 0))
    assert not link.exists(key_of(want))


def _enter(redis: redis_library.Redis, wants: list[Want], request: str) -> tuple[int, str]:
    """Enter a request; return the number of the limit that refuses, and the replica of its slot."""
    args = enter_arguments(Place(POOL, request), 15.0, wants)
    said: Any = redis.eval(SCRIPTS["enter"].text.decode(), 1, keys.pool_prefix(POOL), *args)
    return said[0][0], said[1][0].decode() if said[1] else ""


def _slots(redis: redis_library.Redis) -> int:
    return int(redis.zcard(keys.SLOTS.of(POOL, "a")))


def test_a_slot_and_the_limits_are_one_step_both_ways(link: redis_library.Redis) -> None:
    link.flushall()
    link.hset(keys.ROUTES.of(POOL), "a", '{"state": "hot", "cap": 1}')
    count, rate_ = Want("user", "2", "concurrent", 5, 1), Want("project", "7", "tokens", 100, 40)
    assert _enter(link, [count, rate_], "r") == (0, "a")
    assert (_slots(link), link.zcard(key_of(count))) == (1, 1)
    assert _enter(link, [count, rate_], "s") == (0, ""), "within the limits; no slot is free"
    leave = leave_arguments(3.0, Place(POOL, "r"), "a", [count, rate_], 0)
    link.eval(SCRIPTS["leave"].text.decode(), 1, keys.pool_prefix(POOL), *leave)
    assert (_slots(link), link.zcard(key_of(count))) == (0, 1), "s is still counted"
    assert _take(link, [rate_])[2][0][0] in range(20, 40), "r's 40 are back, s's and these are taken"


def test_whoever_a_limit_refuses_gets_no_slot(link: redis_library.Redis) -> None:
    link.flushall()
    link.hset(keys.ROUTES.of(POOL), "a", '{"state": "hot", "cap": 9}')
    one = Want("user", "2", "concurrent", 1, 1)
    assert _enter(link, [one], "r") == (0, "a")
    assert _enter(link, [one, _requests(10)], "s") == (1, "")
    assert _slots(link) == 1 and not link.exists(key_of(_requests(10)))


def test_nobody_enters_past_a_waiter(link: redis_library.Redis) -> None:
    link.flushall()
    link.hset(keys.ROUTES.of(POOL), "a", '{"state": "hot", "cap": 9}')
    link.zadd(keys.WAIT.of(POOL), {"first": 1.0})
    assert _enter(link, [_requests(10)], "r") == (0, "")
