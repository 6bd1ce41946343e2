"""What the agent does about its replicas, given wishes and facts."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuworker.plan import ENDED, Action, Here, decide
from gpuworker.wire import DesiredReplica, DesiredState, ObservedState

NOW = 1000.0


def want(name: str = "a", state: DesiredState = "hot", gpus: tuple[int, ...] = ()) -> DesiredReplica:
    return DesiredReplica(name, "p", "m", "echo", state, "", "", list(gpus), 4, {}, 60.0, 30.0)


def here(name: str = "a", state: ObservedState = "hot", **changes: object) -> Here:
    replica = Here(name, state, frozenset(), 0, NOW - 10, None, 60.0, 30.0)
    return dataclasses.replace(replica, **changes)  # type: ignore[arg-type]


def kinds(actions: list[Action]) -> list[tuple[str, str]]:
    return [(a.do, a.replica) for a in actions]


def test_a_wanted_replica_is_started_once() -> None:
    assert kinds(decide([want()], {}, False, NOW)) == [("start", "a")]
    assert decide([want()], {"a": here(state="starting")}, False, NOW) == []
    assert decide([want()], {"a": here()}, False, NOW) == []


@pytest.mark.parametrize("state", ["draining", "asleep", "stopped"])
def test_what_is_not_wanted_hot_is_never_started(state: DesiredState) -> None:
    assert decide([want(state=state)], {}, False, NOW) == []


def test_nothing_starts_in_a_pilot_that_drains() -> None:
    assert decide([want()], {}, True, NOW) == []


@pytest.mark.parametrize("state", ["draining", "asleep", "stopped", None])
def test_what_is_no_longer_wanted_is_drained_before_it_is_stopped(state: DesiredState | None) -> None:
    wishes = [want(state=state)] if state else []
    assert kinds(decide(wishes, {"a": here(in_flight=3)}, False, NOW)) == [("drain", "a")]
    draining = here(state="draining", drain_at=NOW - 1, in_flight=3)
    assert decide(wishes, {"a": draining}, False, NOW) == []
    assert kinds(decide(wishes, {"a": dataclasses.replace(draining, in_flight=0)}, False, NOW)) == [
        ("stop", "a")
    ]


def test_a_drain_has_a_limit() -> None:
    draining = here(state="draining", drain_at=NOW - 30, in_flight=3)
    (action,) = decide([], {"a": draining}, False, NOW)
    assert action.do == "stop"
    assert "drain limit" in action.why


def test_one_that_starts_and_is_no_longer_wanted_stops_at_once() -> None:
    assert kinds(decide([], {"a": here(state="starting")}, False, NOW)) == [("stop", "a")]
    assert kinds(decide([want()], {"a": here(state="starting")}, True, NOW)) == [("stop", "a")]


def test_loading_has_a_limit() -> None:
    slow = here(state="starting", started_at=NOW - 60)
    (action,) = decide([want()], {"a": slow}, False, NOW)
    assert (action.do, action.why) == ("fail", "not ready within 60 s")


@pytest.mark.parametrize("state", ["stopped", "failed"])
def test_an_ended_one_is_remembered_until_the_portal_drops_it(state: ObservedState) -> None:
    assert decide([want()], {"a": here(state=state)}, False, NOW) == []
    assert kinds(decide([], {"a": here(state=state)}, False, NOW)) == [("forget", "a")]


def test_a_replica_waits_for_the_gpus_of_one_that_leaves() -> None:
    leaving = here("old", "draining", gpus=frozenset({0, 1}), drain_at=NOW, in_flight=1)
    assert decide([want("new", gpus=(1, 2))], {"old": leaving}, False, NOW) == []
    gone = dataclasses.replace(leaving, state="stopped")
    assert ("start", "new") in kinds(decide([want("new", gpus=(1, 2))], {"old": gone}, False, NOW))


def test_two_new_ones_do_not_get_the_same_gpu() -> None:
    assert kinds(decide([want("a", gpus=(0,)), want("b", gpus=(0,))], {}, False, NOW)) == [("start", "a")]


ASLEEP = dataclasses.replace(want(state="asleep", gpus=(0,)), sleep_level=1)
SLEEPER = here(state="asleep", gpus=frozenset({0}), can_sleep=1)


def test_what_is_to_sleep_is_drained_first_and_put_to_sleep_once() -> None:
    assert kinds(decide([ASLEEP], {"a": here(can_sleep=1)}, False, NOW)) == [("drain", "a")]
    draining = here(state="draining", drain_at=NOW - 1, in_flight=1, can_sleep=1)
    assert decide([ASLEEP], {"a": draining}, False, NOW) == []
    idle = dataclasses.replace(draining, in_flight=0)
    assert kinds(decide([ASLEEP], {"a": idle}, False, NOW)) == [("sleep", "a")]
    assert decide([ASLEEP], {"a": dataclasses.replace(idle, turning=True)}, False, NOW) == []
    assert decide([ASLEEP], {"a": SLEEPER}, False, NOW) == []


def test_what_cannot_sleep_or_will_not_drain_is_stopped_instead() -> None:
    shallow = here(state="draining", drain_at=NOW - 1, can_sleep=1)
    deep = dataclasses.replace(ASLEEP, sleep_level=2)
    assert kinds(decide([deep], {"a": shallow}, False, NOW)) == [("stop", "a")]
    busy = dataclasses.replace(shallow, drain_at=NOW - 30, in_flight=1)
    (action,) = decide([ASLEEP], {"a": busy}, False, NOW)
    assert (action.do, "drain limit" in action.why) == ("stop", True)


def test_a_sleeper_holds_no_gpu_and_wakes_when_its_own_are_free() -> None:
    other = want("b", gpus=(0,))
    assert kinds(decide([ASLEEP, other], {"a": SLEEPER}, False, NOW)) == [("start", "b")]
    leaving = here("b", "draining", gpus=frozenset({0}), drain_at=NOW, in_flight=1)
    wish = want(gpus=(0,))
    assert decide([wish], {"a": SLEEPER, "b": leaving}, False, NOW) == []
    gone = dataclasses.replace(leaving, state="asleep")
    assert ("wake", "a") in kinds(decide([wish], {"a": SLEEPER, "b": gone}, False, NOW))


def test_two_that_change_places_do_not_get_the_same_gpu() -> None:
    wishes = [want(gpus=(0,)), want("b", gpus=(0,))]
    assert kinds(decide(wishes, {"a": SLEEPER}, False, NOW)) == [("wake", "a")]


def test_a_sleeper_wanted_on_other_gpus_is_stopped() -> None:
    assert kinds(decide([want(gpus=(1,))], {"a": SLEEPER}, False, NOW)) == [("stop", "a")]


@pytest.mark.parametrize("state", ["draining", "stopped", None])
def test_a_sleeper_that_nobody_wants_is_stopped(state: DesiredState | None) -> None:
    wishes = [want(state=state)] if state else []
    assert kinds(decide(wishes, {"a": SLEEPER}, False, NOW)) == [("stop", "a")]
    assert kinds(decide([ASLEEP], {"a": SLEEPER}, True, NOW)) == [("stop", "a")]


def test_a_drain_of_the_pilot_breaks_a_sleep_off() -> None:
    turning = here(state="draining", drain_at=NOW - 1, can_sleep=1, turning=True)
    assert kinds(decide([ASLEEP], {"a": turning}, True, NOW)) == [("stop", "a")]


states = st.sampled_from(["starting", "hot", "draining", "asleep", "stopped", "failed"])
names = st.sampled_from(["a", "b", "c"])


@given(
    st.lists(
        st.builds(want, names, st.sampled_from(["hot", "draining", "asleep", "stopped"])),
        unique_by=lambda d: d.id,
    ),
    st.lists(st.tuples(names, states, st.integers(0, 3)), unique_by=lambda t: t[0]),
    st.booleans(),
)
def test_each_replica_gets_at_most_one_action_and_a_busy_hot_one_is_never_stopped(
    wishes: list[DesiredReplica], present: list[tuple[str, ObservedState, int]], drains: bool
) -> None:
    facts = {name: here(name, state, in_flight=busy, drain_at=NOW) for name, state, busy in present}
    actions = decide(wishes, facts, drains, NOW)
    assert len({a.replica for a in actions}) == len(actions)
    for action in actions:
        fact = facts.get(action.replica)
        assert (fact is None) == (action.do == "start")
        if action.do == "wake":
            assert fact is not None
            assert fact.state == "asleep"
        if action.do == "stop":
            assert fact is not None
            assert fact.state in ("starting", "asleep") or (fact.state == "draining" and fact.in_flight == 0)
        if fact and fact.state in ENDED:
            assert action.do == "forget"
