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


def test_a_warning_counts_only_near_the_deadline_or_without_one() -> None:
    assert drain(hinted_at=NOW, deadline_at=NOW + 91) is None
    assert drain(hinted_at=NOW, deadline_at=NOW + 90) == Drain("walltime", NOW + 85)
    assert drain(hinted_at=NOW, deadline_at=None) == Drain("walltime", NOW + 20)


def test_an_old_warning_does_not_count_for_a_deadline_that_was_moved_out() -> None:
    assert drain(hinted_at=NOW - 500, deadline_at=NOW + 80) is None


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
