"""The page of the Slurm clients shows what the contract suite saw, of all verbs and situations that there are."""

from __future__ import annotations

import pytest

from tests.slurm import outcomes

SEEN = outcomes.committed()


def test_the_page_shows_what_was_written_down() -> None:
    text = outcomes.PAGE.read_text()
    assert outcomes.page(text, SEEN) == text, "run python -m tests.slurm.outcomes"


@pytest.mark.parametrize(
    "client",
    [
        ("cli", "22.05"),
        ("cli", "24.11"),
        ("cli", "26.05"),
        ("rest", "24.11"),
        ("rest", "26.05"),
        ("native", "26.05"),
    ],
)
def test_each_client_was_seen_in_each_situation_with_each_verb(client: tuple[str, str]) -> None:
    """A new verb or situation, or an outcome that is meant to be another now, makes what was written down stale."""
    wanted = {name: outcomes.expected(client[0], name) for name in outcomes.SITUATIONS}
    stale = {name for name, seen in wanted.items() if seen is not None and SEEN[client].get(name) != seen}
    assert not stale, f"run the contract suite of {client} with SLURM_OUTCOMES=1"


def test_core_verbs_are_offered_by_every_client_and_silence_is_never_taken_for_that() -> None:
    for kind in ("cli", "rest", "native"):
        well = outcomes.expected(kind, "well")
        assert well is not None
        assert {well[verb] for verb in outcomes.CORE} == {outcomes.ANSWER}
        for situation in ("gone", "slow"):
            seen = outcomes.expected(kind, situation)
            assert seen is not None
            assert {seen[verb] for verb in outcomes.CORE} == {outcomes.SILENT}
