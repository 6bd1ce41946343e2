"""The hard cap: who gets a seat, who gets it back, and which attempt is stale."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gpuworker.seats import Fence, Seats, spare_seats


def test_filler_stops_at_the_cap_and_held_work_at_the_spare_seats() -> None:
    seats = Seats(cap=3, idle_since=0.0)
    assert [seats.take_filler() for _ in range(4)] == [True, True, True, False]
    assert [seats.take_held() for _ in range(3)] == [None, None, "full"]
    assert not seats.take_filler()
    seats.leave_filler(1.0, 1.0)
    seats.leave_filler(1.0, 1.0)
    assert not seats.take_filler(), "held + filler is at the cap"
    assert seats.take_held() is None


def test_a_cap_of_one_has_one_spare_seat() -> None:
    assert [spare_seats(cap) for cap in (1, 2, 64)] == [1, 2, 2]


def test_idle_since_is_the_moment_the_last_one_left() -> None:
    seats = Seats(cap=2, idle_since=1.0)
    seats.take_held()
    seats.take_filler()
    assert seats.idle_since is None
    seats.leave_held(5.0, 5.0)
    assert seats.idle_since is None
    seats.leave_filler(6.0, 6.0)
    assert seats.idle_since == 6.0


def test_a_suspect_runs_alone_in_both_lanes() -> None:
    seats = Seats(cap=4, idle_since=0.0)
    assert seats.take_held() is None
    assert seats.take_held(alone=True) == "busy"
    assert not seats.take_filler(alone=True)
    seats.leave_held(1.0, 1.0)
    assert seats.take_filler(alone=True)
    assert (seats.take_held(), seats.take_filler(), seats.filler_room) == ("busy", False, 0)
    seats.leave_filler(2.0, 2.0)
    assert seats.take_held() is None


def test_a_claim_lets_nobody_in_before_the_one_that_waits() -> None:
    seats = Seats(cap=4, idle_since=0.0)
    seats.take_held()
    seats.claimed = True
    assert (seats.take_held(), seats.take_filler()) == ("busy", False)
    seats.leave_held(1.0, 1.0)
    assert seats.take_filler(alone=True)
    assert not seats.claimed


@given(
    st.integers(1, 5), st.lists(st.sampled_from(["held", "filler", "alone", "-held", "-filler"]), max_size=60)
)
def test_no_order_of_events_exceeds_the_seats(cap: int, events: list[str]) -> None:
    seats = Seats(cap=cap, idle_since=0.0)
    for event in events:
        if event == "held":
            seats.take_held()
        elif event == "filler":
            if seats.take_filler():
                assert seats.in_flight <= cap
        elif event == "alone":
            seats.take_held(alone=True)
        elif event == "-held" and seats.held:
            seats.leave_held(1.0, 1.0)
        elif event == "-filler" and seats.filler:
            seats.leave_filler(1.0, 1.0)
        assert seats.in_flight <= cap + spare_seats(cap)
        assert (seats.idle_since is None) == (seats.in_flight > 0)
        assert not seats.alone or seats.in_flight == 1


def test_only_older_attempts_are_stale() -> None:
    fence = Fence()
    assert [fence.passes("q", n) for n in (2, 2, 1, 3, 2)] == [True, True, False, True, False]
    assert fence.passes("other", 1)


def test_the_fence_forgets_the_oldest() -> None:
    fence = Fence(most=2)
    for name in ("a", "b", "c"):
        fence.passes(name, 5)
    assert fence.passes("a", 1)
    assert not fence.passes("c", 1)


def test_what_a_request_took_is_measured() -> None:
    seats = Seats(cap=2, idle_since=0.0)
    seats.take_held()
    seats.take_filler()
    seats.leave_held(5.0, 3.0)
    seats.leave_filler(6.0, 2.0)
    assert (seats.served, seats.busy_s) == (2, 6.0)


def test_the_longest_of_the_last_requests_is_known_and_old_ones_are_forgotten() -> None:
    seats = Seats(cap=4, idle_since=0.0)
    assert seats.longest_s is None
    for took_s in (50.0, *[1.0] * 99):
        assert seats.take_filler()
        seats.leave_filler(100.0, 100.0 - took_s)
    assert seats.longest_s == 50.0
    assert seats.take_held() is None
    seats.leave_held(100.0, 98.0)
    assert seats.longest_s == 2.0
