"""Rows that are here before there is a seat: how many, who is next, and what becomes of one that gets none."""

from __future__ import annotations

import asyncio
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from gpuworker import leaser as module
from gpuworker import row as row_call
from gpuworker import wire
from gpuworker.ahead import LEAD_S, WINDOW_S, Ahead
from gpuworker.leaser import Leaser
from gpuworker.seats import Fence, Seats


def test_where_rows_are_long_none_is_asked_for_ahead() -> None:
    ahead = Ahead(cap=8)
    ahead.ended(10.0)
    assert ahead.worth(10.1) == 0


def test_where_rows_are_short_those_of_the_next_moment_are_asked_for() -> None:
    ahead = Ahead(cap=1000)
    for n in range(200):
        ahead.ended(10.0 + n / 100)
    assert ahead.worth(12.0) == int(200 * LEAD_S / WINDOW_S)
    assert ahead.worth(12.0 + WINDOW_S) == 0, "nothing has ended for a while"


def test_never_more_than_there_are_seats() -> None:
    ahead = Ahead(cap=4)
    for n in range(1000):
        ahead.ended(10.0 + n / 1000)
    assert ahead.worth(11.0) == 4


class World:
    """A leaser with one hot replica, its engine and its portal in the test's hands."""

    def __init__(self, cap: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.seats = Seats(cap, idle_since=0.0)
        want = SimpleNamespace(id="r1", cap=cap)
        self.replica = SimpleNamespace(want=want, state="hot", seats=self.seats, ahead=Ahead(cap))
        self.asks: list[wire.LeaseAsk] = []
        self.rows: deque[wire.LeasedRow] = deque()
        self.running: dict[str, asyncio.Future[None]] = {}
        self.order: list[str] = []
        self.results: list[wire.RowResult] = []
        monkeypatch.setattr(row_call, "run", self._run)
        replicas = SimpleNamespace(get={"r1": self.replica}.get)
        of_replicas: Any = _Replicas(self.replica, replicas)
        portal: Any = SimpleNamespace(lease=self._lease)
        outbox: Any = SimpleNamespace(put=self.results.append)
        self.leaser = Leaser("p1", portal, of_replicas, outbox, Fence(), lambda: None)

    async def _lease(self, ask: wire.LeaseAsk) -> wire.LeaseAnswer:
        self.asks.append(ask)
        most = ask.room["r1"]
        while not self.rows:
            await asyncio.sleep(0)
        return wire.LeaseAnswer([self.rows.popleft() for _ in range(min(most, len(self.rows)))])

    async def _run(self, row: wire.LeasedRow, _replica: Any) -> wire.RowResult:
        self.order.append(row.request)
        self.running[row.request] = asyncio.get_running_loop().create_future()
        await self.running[row.request]
        return row_call.give_back(row, "ended")

    async def settle(self) -> None:
        for _ in range(20):
            await asyncio.sleep(0)


class _Replicas(list[Any]):
    def __init__(self, one: Any, rest: Any) -> None:
        super().__init__([one])
        self.get = rest.get


def row(name: str) -> wire.LeasedRow:
    return wire.LeasedRow(name, 1, "r1", "/v1/chat/completions", False, b"{}")


async def test_a_seat_goes_at_once_to_the_row_that_has_waited_longest(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(1, monkeypatch)
    for name in ("a", "b", "c"):
        world.leaser._take(row(name))
    await world.settle()
    assert world.order == ["a"]
    for done, follows in (("a", "b"), ("b", "c")):
        world.running[done].set_result(None)
        await world.settle()
        assert world.order[-1] == follows
        assert world.seats.filler == 1


async def test_held_work_is_not_kept_waiting_by_rows_that_have_no_seat(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(1, monkeypatch)
    world.leaser._take(row("a"))
    world.leaser._take(row("b"))
    await world.settle()
    assert world.seats.take_held() is None
    world.running["a"].set_result(None)
    await world.settle()
    assert world.order == ["a"], "held work has the seat"
    world.seats.leave_held(0.0, 0.0)
    world.leaser.look()
    await world.settle()
    assert world.order == ["a", "b"]


async def test_a_row_that_gets_no_seat_goes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEAT_LIMIT_S", 0.05)
    world = World(1, monkeypatch)
    world.leaser._take(row("a"))
    await world.settle()
    world.leaser._take(row("b"))
    async with asyncio.timeout(60):
        while not world.results:
            await asyncio.sleep(0.01)
    (back,) = world.results
    assert (back.request, back.outcome, back.error_code) == ("b", "back", "no_seat")
    assert len(world.replica.ahead) == 0


async def test_rows_that_wait_go_back_when_the_replica_drains(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(1, monkeypatch)
    world.leaser._take(row("a"))
    world.leaser._take(row("b"))
    await world.settle()
    world.replica.state = "draining"
    world.leaser.look()
    await world.settle()
    assert [(r.request, r.error_code) for r in world.results] == [("b", "draining")]


async def test_a_poll_asks_for_the_free_seats_and_for_those_that_will_be(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World(4, monkeypatch)
    assert world.leaser.room() == {"r1": 4}
    now = asyncio.get_running_loop().time()  # the monotonic clock
    for _ in range(round(3 * WINDOW_S / LEAD_S)):
        world.replica.ahead.ended(now)
    assert world.leaser.room() == {"r1": 4 + 3}
    world.seats.alone = True
    assert world.leaser.room() == {}, "nothing beside a row that must run alone"


async def test_a_poll_is_not_made_for_each_row_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World(8, monkeypatch)
    now = asyncio.get_running_loop().time()
    for _ in range(32):
        world.replica.ahead.ended(now)
    for number in range(16):
        world.leaser._take(row(f"q{number}"))
    await world.settle()
    assert world.leaser.room() == {}, "eight run and as many wait"
    for number in range(3):
        world.running[f"q{number}"].set_result(None)
    await world.settle()
    assert world.leaser.room() == {}
    world.running["q3"].set_result(None)
    await world.settle()
    assert world.leaser.room() == {"r1": 4}
