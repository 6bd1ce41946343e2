"""Fair order: shares by weight and cost, first come first served among equals, every wait bounded (invariant 8)."""

from __future__ import annotations

import heapq
from dataclasses import dataclass

from hypothesis import given
from hypothesis import strategies as st

from portal.policy.estimate import UNSAID_TOKENS, tokens
from portal.policy.fairshare import Line, given_back, keys, longest_wait, started, tag

arrivals = st.lists(
    st.tuples(st.integers(0, 4), st.integers(1, 3000), st.integers(0, 2)), min_size=1, max_size=60
)
weights = st.lists(st.floats(0.1, 20.0), min_size=5, max_size=5)


@dataclass
class Pool:
    """One lane served one at a time, in the order of the keys."""

    weights: list[float]
    line: Line
    waiting: list[tuple[float, int, int, float]]
    served: list[tuple[int, int, float]]

    @classmethod
    def empty(cls, weights: list[float]) -> Pool:
        return cls(weights, Line(), [], [])

    def arrives(self, name: int, project: int, cost: float, priority: int = 0) -> float:
        key, self.line = tag(self.line, project, cost / self.weights[project], priority)
        heapq.heappush(self.waiting, (key, name, project, cost))
        return key

    def serves(self) -> None:
        if self.waiting:
            key, name, project, cost = heapq.heappop(self.waiting)
            self.line = started(self.line, key)
            self.served.append((name, project, cost))


@given(arrivals, weights)
def test_every_wait_is_bounded_whoever_else_asks(
    asks: list[tuple[int, int, int]], weights: list[float]
) -> None:
    """Between any arrivals some are served; what others got before a request's turn stays under its bound."""
    pool = Pool.empty(weights)
    bounds = []
    largest = dict.fromkeys(range(5), 3000.0)
    for name, (project, cost, serves) in enumerate(asks):
        vtime_before = pool.line
        key = pool.arrives(name, project, cost)
        others = {of: weight for of, weight in enumerate(weights) if of != project}
        slack = 1.0  # the steps between those that found their project idle
        bounds.append((len(pool.served), longest_wait(vtime_before, key + slack, others, largest)))
        for _ in range(serves):
            pool.serves()
    while pool.waiting:
        pool.serves()
    order = [name for name, _, _ in pool.served]
    for name, (since, bound) in enumerate(bounds):
        project = asks[name][0]
        before = pool.served[since : order.index(name)]
        assert sum(cost for _, of, cost in before if of != project) <= bound


@given(st.integers(1, 200), st.integers(1, 500))
def test_a_flood_delays_anothers_single_request_by_one_of_its_own(flood: int, cost: int) -> None:
    pool = Pool.empty([1.0, 1.0])
    for name in range(flood):
        pool.arrives(name, 0, cost)
    pool.serves()
    pool.arrives(9999, 1, cost)
    for _ in range(3):
        pool.serves()
    assert 9999 in [name for name, _, _ in pool.served], (
        "a thousand requests of one project cost another one turn"
    )


def test_a_thousand_requests_of_one_project_cost_another_at_most_two_turns() -> None:
    pool = Pool.empty([1.0, 1.0])
    for name in range(1000):
        pool.arrives(name, 0, 100)
    for _ in range(400):
        pool.serves()
    pool.arrives(9999, 1, 100)
    pool.serves()
    pool.serves()
    assert pool.served[-1][0] == 9999 or pool.served[-2][0] == 9999


def test_shares_follow_the_weights() -> None:
    pool = Pool.empty([3.0, 1.0])
    for name in range(200):
        pool.arrives(2 * name, 0, 100)
        pool.arrives(2 * name + 1, 1, 100)
    for _ in range(100):
        pool.serves()
    ours = sum(1 for _, project, _ in pool.served if project == 0)
    assert 74 <= ours <= 76


def test_shares_are_of_tokens_not_of_requests() -> None:
    pool = Pool.empty([1.0, 1.0])
    for name in range(100):
        pool.arrives(2 * name, 0, 900)
        pool.arrives(2 * name + 1, 1, 100)
    for _ in range(50):
        pool.serves()
    got = [sum(cost for _, of, cost in pool.served if of == project) for project in (0, 1)]
    assert abs(got[0] - got[1]) <= 900


@given(st.lists(st.integers(0, 3), min_size=2, max_size=30, unique=False))
def test_equals_are_served_first_come_first_served(projects: list[int]) -> None:
    """Those that find their project idle, and those of one project."""
    pool = Pool.empty([1.0] * 4)
    first = list(dict.fromkeys(projects))
    for name, project in enumerate(first):
        pool.arrives(name, project, 100)
    for name, project in enumerate(projects, start=100):
        pool.arrives(name, project, 100)
    while pool.waiting:
        pool.serves()
    assert [name for name, _, _ in pool.served][: len(first)] == list(range(len(first)))
    for project in first:
        own = [name for name, of, _ in pool.served if of == project]
        assert own == sorted(own)


def test_priority_passes_its_own_project_only() -> None:
    pool = Pool.empty([1.0, 1.0])
    for name in range(5):
        pool.arrives(name, 0, 100)
    for name in range(10, 15):
        pool.arrives(name, 1, 100)
    pool.serves()
    pool.arrives(99, 0, 100, priority=1)
    low = pool.arrives(5, 0, 100)
    order = []
    while pool.waiting:
        pool.serves()
        order.append(pool.served[-1][0])
    own = [name for name in order if name < 10 or name == 99]
    assert own[0] == 99, "it passes what its project had waiting"
    assert order.index(10) <= 1, "the other project's turn is not pushed back by more than one"
    assert low >= 600, "what passed is charged to the project's later work"


def test_what_a_cancelled_backlog_had_reserved_is_given_back() -> None:
    line = Line()
    for _ in range(1000):
        _, line = tag(line, 1, 100.0)
    other, _ = tag(line, 2, 100.0)
    kept, _ = tag(line, 1, 100.0)
    back, _ = tag(given_back(line, 1), 1, 100.0)
    assert kept == 100_000.0
    assert back == other <= 1.0


def test_a_batch_has_its_places_in_its_own_order() -> None:
    assert keys(10.0, [1.0, 2.0, 3.0]) == [10.0, 11.0, 13.0]


def test_the_estimate_counts_the_prompt_and_the_answers_limit() -> None:
    assert tokens(b"{}") == UNSAID_TOKENS
    assert tokens(b'{"max_tokens": 10}'.ljust(40)) == 20
    assert tokens(b'{"max_completion_tokens":7,"x":"' + b"y" * 400 + b'"}') == 7 + 108
    assert tokens(b'{"prompt":"\\"max_tokens\\": 99999"}') == UNSAID_TOKENS + 8, "a prompt is not a key"
    assert tokens(b'{"max_tokens": 999999999999}') < 140_000
