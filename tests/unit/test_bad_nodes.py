"""Which failures are a node's fault, and which a model's or a profile's."""

from __future__ import annotations

from scheduler.observe.bad_nodes import Start, suspects


def start(node: str, at: float, *, good: bool = False, registered: bool = True, pool: str = "llama") -> Start:
    return Start(node, 1, pool, at, good, registered or good, "" if good else "it broke")


def found(
    *starts: Start, excluded: tuple[str, ...] = (), forgiven: dict[str, float] | None = None
) -> list[str]:
    return [s.node for s in suspects(starts, excluded, forgiven or {}, after=2)]


def test_engines_that_fail_on_one_node_and_start_on_another_accuse_the_node() -> None:
    assert found(start("a", 1), start("a", 2), start("b", 3, good=True)) == ["a"]


def test_a_model_that_fails_everywhere_accuses_no_node() -> None:
    assert found(start("a", 1), start("a", 2), start("b", 3), start("b", 4)) == []
    assert found(start("a", 1), start("a", 2), start("b", 3, good=True, pool="other")) == []


def test_one_good_start_ends_the_row() -> None:
    assert found(start("a", 1), start("a", 2, good=True), start("a", 3), start("b", 4, good=True)) == []


def test_a_job_whose_agent_never_spoke_accuses_the_first_node_without_a_witness() -> None:
    mute = [start("a", 1, registered=False), start("a", 2, registered=False)]
    assert found(*mute) == ["a"]
    # A prologue that fails everywhere must not take one node after the other.
    assert found(*mute, excluded=("b",)) == []
    assert found(*mute, start("c", 3, registered=True), excluded=("b",)) == ["a"]


def test_a_node_that_was_left_out_is_a_witness_of_nothing() -> None:
    assert found(start("a", 1), start("a", 2), start("b", 3, good=True), excluded=("b",)) == []


def test_what_was_forgiven_does_not_count_again() -> None:
    starts = (start("a", 1), start("a", 2), start("b", 3, good=True))
    assert found(*starts, forgiven={"a": 2.5}) == []
    assert found(*starts, start("a", 4), start("a", 5), forgiven={"a": 2.5}) == ["a"]
