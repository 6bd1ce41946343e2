"""When a pilot drains, until when, and what it says about it."""

from __future__ import annotations

import dataclasses

from gpuworker.lifetime import Drain, Signs, decide

NOW = 10_000.0
QUIET = Signs(
    deadline_at=NOW + 3600,
    portal_drains=False,
    hinted_at=None,
    term_at=None,
    heard_at=NOW,
    busy=False,
    drain_limit_s=30.0,
)


def drain(running: Drain | None = None, now: float = NOW, **changes: object) -> Drain | None:
    return decide(dataclasses.replace(QUIET, **changes), running, 1800.0, now)  # type: ignore[arg-type]


def test_nothing_happens_in_the_middle_of_a_job() -> None:
    assert drain() is None
    assert drain(deadline_at=None) is None


def test_the_own_clock_starts_the_drain_before_the_deadline() -> None:
    assert drain(deadline_at=NOW + 36) is None
    assert drain(deadline_at=NOW + 35) == Drain("walltime", NOW + 30)


def test_it_serves_as_long_as_a_request_that_comes_now_can_end_in_time() -> None:
    assert drain(deadline_at=NOW + 14, longest_s=4.0) is None
    assert drain(deadline_at=NOW + 13, longest_s=4.0) == Drain("walltime", NOW + 8)
    assert drain(deadline_at=NOW + 7.1, longest_s=0.0) is None


def test_what_takes_longer_than_the_drain_limit_does_not_start_the_drain_earlier() -> None:
    assert drain(deadline_at=NOW + 36, longest_s=600.0) is None
    assert drain(deadline_at=NOW + 35, longest_s=600.0) == Drain("walltime", NOW + 30)


def test_without_a_request_that_ended_a_drain_takes_half_a_minute() -> None:
    assert drain(deadline_at=NOW + 36, drain_limit_s=120.0) is None
    assert drain(deadline_at=NOW + 35, drain_limit_s=120.0) == Drain("walltime", NOW + 30)


def test_a_warning_counts_only_where_no_deadline_is_known() -> None:
    assert drain(hinted_at=NOW, deadline_at=NOW + 60, longest_s=1.0) is None
    assert drain(hinted_at=NOW, deadline_at=None) == Drain("walltime", NOW + 20)


def test_sigterm_leaves_seconds() -> None:
    assert drain(term_at=NOW) == Drain("preempted", NOW + 20)
    assert drain(term_at=NOW, deadline_at=NOW + 12) == Drain("preempted", NOW + 7)


def test_the_portals_drain_ends_before_the_deadline() -> None:
    assert drain(portal_drains=True) == Drain("drained", NOW + 30)
    assert drain(portal_drains=True, deadline_at=NOW + 45, drain_limit_s=39) == Drain("drained", NOW + 39)


def test_silence_ends_only_an_idle_pilot() -> None:
    assert drain(heard_at=NOW - 1799) is None
    assert drain(heard_at=NOW - 1800, busy=True) is None
    assert drain(heard_at=NOW - 1800) == Drain("portal silent", NOW)


def test_a_drain_never_ends_and_only_gets_shorter() -> None:
    running = Drain("drained", NOW + 25)
    assert drain(running) == running
    assert drain(running, now=NOW + 5, portal_drains=True) == running
    assert drain(running, term_at=NOW) == Drain("preempted", NOW + 20)
    assert drain(running, term_at=NOW + 10, now=NOW + 10) == running
