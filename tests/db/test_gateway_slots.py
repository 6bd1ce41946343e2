"""The Lua scripts against real Redis: the pure rule, and a state machine of many gateways' requests.

Held at every step: no replica runs more than its cap, nobody passes a waiter, a suspect is alone, no grant is
lost while there is room, and grants come in the order of the keys.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from typing import Any

import pytest
import redis as redis_library
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from portal.admission.place import Place
from portal.admission.scripts import SCRIPTS
from portal.policy.routing import Candidate, choose
from portal.redis import keys

POOL = "p/q-1.5"


def _client() -> redis_library.Redis:
    return redis_library.Redis.from_url(os.environ["BERTH_REDIS_URL"])


def _run(redis: redis_library.Redis, name: str, *args: Any) -> Any:
    return redis.eval(SCRIPTS[name].text.decode(), 1, keys.pool_prefix(POOL), *args)


def _place(request: str, alone: bool = False) -> tuple[str, str, int]:
    return Place(POOL, request, alone=alone).arguments()


def _route(redis: redis_library.Redis, replica: str, cap: int) -> None:
    said = {"transport": "t", "pilot": "p", "cap": cap, "state": "hot", "model": "m"}
    redis.hset(keys.ROUTES.of(POOL), replica, json.dumps(said))


@pytest.fixture(scope="module")
def link() -> Iterator[redis_library.Redis]:
    client = _client()
    yield client
    client.flushall()
    client.close()


replicas = st.lists(
    st.tuples(st.uuids().map(str), st.integers(0, 5), st.integers(1, 4)), max_size=5, unique_by=lambda r: r[0]
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(replicas)
def test_admit_follows_the_pure_rule(link: redis_library.Redis, found: list[tuple[str, int, int]]) -> None:
    link.flushall()
    for replica, n, cap in found:
        _route(link, replica, cap)
        for i in range(n):
            link.zadd(keys.SLOTS.of(POOL, replica), {f"r{i}|0": 4e9})
        link.zadd(keys.SLOTS.of(POOL, replica), {"expired|0": 1.0})
    answer = _run(link, "admit", 15, *_place("new"))
    expected = choose([Candidate(replica, n, cap) for replica, n, cap in found])
    assert (answer[0].decode() if answer else None) == expected
    if expected:
        assert link.zscore(keys.SLOTS.of(POOL, expected), "new|0")


def test_a_route_that_is_not_hot_or_not_readable_is_not_used(link: redis_library.Redis) -> None:
    link.flushall()
    link.hset(keys.ROUTES.of(POOL), "a", "nonsense")
    link.hset(keys.ROUTES.of(POOL), "b", json.dumps({"state": "draining", "cap": 3}))
    link.hset(keys.ROUTES.of(POOL), "c", json.dumps({"state": "hot"}))
    assert _run(link, "admit", 15, *_place("new")) == []


def test_an_owner_that_does_not_listen_gets_no_slot_and_blocks_nobody(link: redis_library.Redis) -> None:
    link.flushall()
    ear: Any = link.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
    with ear:
        ear.subscribe(keys.GATEWAY.of("alive"))
        ear.get_message(timeout=2)
        _run(link, "enqueue", 3, "1.0", "dead", *_place("old"))
        _run(link, "enqueue", 3, "2.0", "alive", *_place("young"))
        _route(link, "r", 1)
        assert _run(link, "fill", 3) == 1
    assert link.zrange(keys.SLOTS.of(POOL, "r"), 0, -1) == [b"young|0"]
    assert not link.exists(keys.WAIT.of(POOL), keys.OWNER.of(POOL))


class Requests(RuleBasedStateMachine):
    """The requests of two gateways over replicas that come and go. The model knows who holds what."""

    def __init__(self) -> None:
        super().__init__()
        self.redis = _client()
        self.redis.flushall()
        self.ear: Any = self.redis.pubsub(ignore_subscribe_messages=True)  # type: ignore[no-untyped-call]
        self.ear.subscribe(keys.GATEWAY.of("g0"), keys.GATEWAY.of("g1"))
        for _ in range(2):
            self.ear.get_message(timeout=2)
        self.caps: dict[str, int] = {}
        self.keys: dict[str, float] = {}
        self.suspects: set[str] = set()
        self.waiting: set[str] = set()
        self.running: dict[str, str] = {}
        self.clock = 0.0
        self.named = 0

    def teardown(self) -> None:
        self.ear.close()
        self.redis.close()

    @initialize(cap=st.integers(1, 3))
    def first_replica(self, cap: int) -> None:
        self.new_replica(cap)

    def _heard(self) -> list[tuple[str, str]]:
        """Return the grants since the last look, in order; the model takes them up."""
        grants = []
        while message := self.ear.get_message(timeout=0):
            said = json.loads(message["data"])
            assert said["pool"] == POOL and json.loads(said["route"])["cap"] == self.caps[said["replica"]]
            grants.append((said["request"], said["replica"]))
        return grants

    def _take(self, expected: int) -> None:
        """Check that each grant goes to one that waited; among the ordinary ones the lowest keys come
        first."""
        grants = self._heard()
        while len(grants) < expected:
            grants += self._heard()
        assert len(grants) == expected
        before = set(self.waiting)
        for request, replica in grants:
            assert request in self.waiting, "granted twice, or never asked"
            self.waiting.discard(request)
            self.running[request] = replica
        plain = [r for r, _ in grants if r not in self.suspects]
        left = [self.keys[r] for r in before - {r for r, _ in grants} - self.suspects]
        assert [self.keys[r] for r in plain] == sorted(self.keys[r] for r in plain)
        assert not plain or not left or max(self.keys[r] for r in plain) <= min(left)

    @rule(cap=st.integers(1, 3))
    def new_replica(self, cap: int) -> None:
        if len(self.caps) < 3:
            replica = f"r{len(self.caps)}"
            self.caps[replica] = cap
            _route(self.redis, replica, cap)
            self._take(_run(self.redis, "fill", 3))

    @rule()
    def arrives(self) -> None:
        request = self._name()
        answer = _run(self.redis, "admit", 15, *_place(request))
        if answer:
            assert not self.waiting, "barged past a waiter"
            self.clock += 1
            self.keys[request] = self.clock
            self.running[request] = answer[0].decode()
        else:
            self._enqueue(request, suspect=False)

    @rule(back=st.integers(0, 3))
    def a_suspect_arrives(self, back: int) -> None:
        if len(self.suspects) < 3:
            self._enqueue(self._name(), suspect=True, back=back)

    def _name(self) -> str:
        self.named += 1
        return f"q{self.named:04d}"

    def _enqueue(self, request: str, *, suspect: bool, back: float = 0) -> None:
        self.clock += 1
        self.keys[request] = self.clock - back - (0.5 if back else 0)
        if suspect:
            self.suspects.add(request)
        self.waiting.add(request)
        owner = f"g{int(self.clock) % 2}"
        place = _place(request, suspect)
        self._take(_run(self.redis, "enqueue", 3, repr(self.keys[request]), owner, *place))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), over=st.booleans())
    def leaves_its_slot(self, data: Any, over: bool) -> None:
        """End a request, or put it back in line with its old key."""
        request = data.draw(st.sampled_from(sorted(self.running)))
        replica = self.running.pop(request)
        if over:
            self.suspects.discard(request)
        self._take(_run(self.redis, "release", 3, replica, int(over), *_place(request)))
        if not over:
            self.waiting.add(request)
            place = _place(request, request in self.suspects)
            self._take(_run(self.redis, "enqueue", 3, repr(self.keys[request]), "g0", *place))

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def gives_up_waiting(self, data: Any) -> None:
        request = data.draw(st.sampled_from(sorted(self.waiting)))
        self.waiting.discard(request)
        self.suspects.discard(request)
        self._take(_run(self.redis, "release", 3, "", 1, *_place(request)))

    @precondition(lambda self: self.running)
    @rule()
    def renews(self) -> None:
        leases = [p for r, where in self.running.items() for p in (where, *_place(r, r in self.suspects))]
        _run(self.redis, "renew", 15, *leases)

    def _in(self, replica: str) -> list[str]:
        return [request for request, where in self.running.items() if where == replica]

    def _members(self, key: str) -> set[str]:
        found: Any = self.redis.zrange(key, 0, -1)
        return {member.decode() for member in found}

    @invariant()
    def redis_and_the_model_agree(self) -> None:
        assert self._members(keys.WAIT.of(POOL)) == self.waiting
        for replica in self.caps:
            members = {member.split("|")[0] for member in self._members(keys.SLOTS.of(POOL, replica))}
            assert members == set(self._in(replica))

    @invariant()
    def no_replica_runs_more_than_its_cap(self) -> None:
        for replica, cap in self.caps.items():
            assert len(self._in(replica)) <= cap

    @invariant()
    def a_suspect_is_alone(self) -> None:
        for replica in self.caps:
            inside = self._in(replica)
            assert len(inside) <= 1 or not self.suspects.intersection(inside)

    @invariant()
    def nobody_waits_beside_an_empty_replica(self) -> None:
        if self.waiting:
            assert all(self._in(replica) for replica in self.caps)

    @invariant()
    def room_is_left_only_for_a_suspect(self) -> None:
        if self.waiting and not self.suspects:
            assert all(len(self._in(replica)) == cap for replica, cap in self.caps.items())


Requests.TestCase.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
TestRequests = Requests.TestCase
