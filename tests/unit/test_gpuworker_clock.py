"""The portal's clock as an agent learns it from answers, and the times that it converts."""

from __future__ import annotations

import dataclasses

import pytest

from gpuworker import wire
from gpuworker.clock import SLACK_S, PortalClock

ANSWER = wire.SyncAnswer([], False, 5000.0, [], 1.0, False)


def _clock(ahead_s: float) -> PortalClock:
    clock = PortalClock()
    clock.heard(1000.0 + ahead_s, 1000.0, 1000.0)
    return clock


@pytest.mark.parametrize("ahead_s", [-3600.0, -1.0, 1.0, 3600.0])
def test_it_is_learnt_from_one_answer(ahead_s: float) -> None:
    assert _clock(ahead_s).ahead_s == ahead_s


def test_what_the_calls_duration_explains_is_no_difference() -> None:
    clock = PortalClock()
    clock.heard(1009.9, 1000.0, 1010.0)  # a slow portal: it stamped at the end
    assert clock.ahead_s == 0.0
    clock.heard(1000.0 + SLACK_S, 1000.0, 1000.0)
    assert clock.ahead_s == 0.0
    clock.heard(1065.0, 1000.0, 1010.0)
    assert clock.ahead_s == 60.0
    clock.heard(1064.0, 1000.0, 1010.0)
    assert clock.ahead_s == 60.0, "no jitter"


def test_a_clock_that_is_set_right_is_noticed() -> None:
    clock = _clock(60.0)
    clock.heard(2000.0, 2000.0, 2000.1)
    assert abs(clock.ahead_s) < 0.1


def test_answers_that_say_nothing_of_it_change_nothing() -> None:
    clock = _clock(60.0)
    clock.heard(0.0, 2000.0, 2000.0)  # a portal of before
    clock.heard(1000.0, 2000.0, 1990.0)  # our clock was set back during the call
    assert clock.ahead_s == 60.0


def test_what_is_told_is_the_portals_time_and_what_is_heard_is_ours() -> None:
    clock = _clock(60.0)
    seen = wire.ObservedReplica("r", "p", "m", "hot", "", 1, 0, 0, 10.0, None, 30.0, "", 0, 0, "")
    said = wire.Sync("p", 7, 1, 100.0, False, "", [seen], [], None)
    told = clock.report(said)
    assert (told.at, told.replicas[0].started_at, told.replicas[0].hot_at) == (160.0, 70.0, None)
    assert told.replicas[0].idle_since == 90.0
    row = wire.RowResult("q", 1, "done", 200, b"", "", False, None, 50.0, 1, 1)
    (ended,) = clock.results(wire.Results("p", [row])).results
    assert (ended.first_token_at, ended.ended_at) == (None, 110.0)
    registered = clock.registration(wire.Register("p", 7, 0, "n", "a", 1.0, 2.0, "1", [], 1), 3.0)
    assert (registered.started_at, registered.agent_at, registered.sent_at) == (61.0, 62.0, 63.0)
    assert clock.answer(ANSWER).deadline_at == 4940.0
    assert clock.answer(dataclasses.replace(ANSWER, deadline_at=None)).deadline_at is None


def test_every_time_on_the_wire_is_converted() -> None:
    """A field that is added to a message and means a moment has to be thought of in `gpuworker.clock`."""
    times = {
        f"{kind.__name__}.{field.name}"
        for kind in (wire.Register, wire.Sync, wire.ObservedReplica, wire.RowResult, wire.SyncAnswer)
        for field in dataclasses.fields(kind)
        if "float" in str(field.type) and not field.name.endswith("_s")
    }
    assert times == {
        "Register.started_at", "Register.agent_at", "Register.sent_at", "Sync.at", "ObservedReplica.started_at",
        "ObservedReplica.hot_at", "ObservedReplica.idle_since", "RowResult.first_token_at", "RowResult.ended_at",
        "SyncAnswer.deadline_at", "SyncAnswer.at",
    }  # fmt: skip
