"""The rule of acceptance by itself: what comes first, and what a request takes of the line."""

from __future__ import annotations

import pytest

from portal.acceptance.rule import Crowd, Facts, Rates, priority, share, verdict
from portal.catalog.entries import ModelEntry
from portal.errors import ApiError
from portal.policy.limits import Want

OPEN = ModelEntry("m", "p", "llm", True, frozenset(), None, 0)
CLOSED = ModelEntry("m", "p", "llm", False, frozenset({7}), None, 0)
LIMIT = Want("project", "1", "queued", 3, 1)


@pytest.mark.parametrize(
    ("model", "crowd", "rates", "said"),
    [
        (OPEN, Crowd(LIMIT, 2), "allow", "queued"),
        (CLOSED, Crowd(LIMIT, 2), "allow", "queued"),
        (OPEN, Crowd(LIMIT, 2), "refuse", "parked"),
        (OPEN, Crowd(LIMIT, 2), "unknown", "parked"),
        (OPEN, Crowd(LIMIT, 3), "allow", "rate_limit_exceeded"),
        (OPEN, Crowd(LIMIT, 1, coming=2), "allow", "queued"),
        (OPEN, Crowd(LIMIT, 1, coming=3), "allow", "rate_limit_exceeded"),
        (OPEN, Crowd(LIMIT, 3), "refuse", "rate_limit_exceeded"),
        (None, Crowd(LIMIT, 3), "refuse", "model_not_found"),
    ],
)
def test_the_verdict(model: ModelEntry | None, crowd: Crowd, rates: Rates, said: str) -> None:
    found = verdict(Facts("m", model, 7, [crowd], rates))
    assert said == (found.error.code if found.error else found.state)
    assert (found.crowd is crowd) == (said == "rate_limit_exceeded")


def test_a_model_of_other_projects_is_told_of_in_the_words_of_one_that_is_not_there() -> None:
    foreign, unknown = verdict(Facts("m", CLOSED, 8)).error, verdict(Facts("m", None, 8)).error
    assert foreign is not None and unknown is not None
    assert foreign.envelope("r") == unknown.envelope("r") and foreign.status == 404


def test_a_refused_one_raises_and_an_accepted_one_says_its_state() -> None:
    with pytest.raises(ApiError):
        verdict(Facts("m", None, 7)).accepted()
    assert verdict(Facts("m", OPEN, 7)).accepted() == "queued"


def test_share_and_priority() -> None:
    assert share(1000, 4.0) == 250
    assert (priority(None, -1), priority(0, 1)) == (-1, 0)
