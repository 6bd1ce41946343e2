"""Limits as arithmetic: a minute's worth at once, then at the rate; nothing is let through early, nothing lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from portal.admission.subjects import of_subjects
from portal.config import ConfigError, parse
from portal.gateway.limits import headers
from portal.policy.limits import PERIOD_S, Level, Quota, Want, duration, rate, settled, wants

NOW = 1.8e9


@given(st.integers(1, 5000), st.lists(st.tuples(st.floats(0, 30), st.integers(1, 800)), max_size=60))
def test_never_more_than_the_bucket_and_what_refilled_since(
    limit: int, asks: list[tuple[float, int]]
) -> None:
    now, full_at, taken, oldest = NOW, None, 0, NOW
    for pause_s, cost in asks:
        now += pause_s
        said = rate(full_at, limit, cost, now)
        full_at = said.full_at
        if said.retry_s == 0:
            taken += min(cost, limit)
        assert taken <= limit * (1 + (now - oldest) / PERIOD_S) + 1
        assert 0 <= said.remaining <= limit and 0 <= said.reset_s <= PERIOD_S + 0.001


@given(st.integers(1, 5000), st.lists(st.integers(1, 800), max_size=20), st.integers(1, 800))
def test_after_the_seconds_it_named_the_same_request_goes_through(
    limit: int, before: list[int], cost: int
) -> None:
    full_at = None
    for taken in before:
        full_at = rate(full_at, limit, taken, NOW).full_at
    said = rate(full_at, limit, cost, NOW)
    if said.retry_s:
        assert rate(said.full_at, limit, cost, NOW + said.retry_s * 0.9 - 0.01).retry_s > 0
        assert rate(said.full_at, limit, cost, NOW + said.retry_s).retry_s == 0


def test_a_whole_minutes_worth_may_come_at_once_and_not_one_more() -> None:
    full_at = None
    for left in range(9, -1, -1):
        said = rate(full_at, 10, 1, NOW)
        assert (said.retry_s, said.remaining) == (0, left)
        full_at = said.full_at
    refused = rate(full_at, 10, 1, NOW)
    assert refused.retry_s == pytest.approx(6.0)
    assert refused.full_at == full_at, "a refusal takes nothing"


def test_a_request_larger_than_the_bucket_takes_all_of_it_and_is_not_refused_for_ever() -> None:
    said = rate(None, 100, 5000, NOW)
    assert (said.retry_s, said.remaining) == (0, 0)
    assert rate(said.full_at, 100, 1, NOW).retry_s > 0


def test_what_was_reserved_and_not_used_comes_back_and_a_debt_delays() -> None:
    full_at = rate(None, 600, 600, NOW).full_at
    assert rate(settled(full_at, 600, -500, NOW), 600, 500, NOW).retry_s == 0
    assert rate(settled(full_at, 600, 600, NOW), 600, 1, NOW).retry_s == pytest.approx(60.1)


def test_each_level_has_its_own_quota_or_the_sites() -> None:
    own: dict[tuple[Level, str], Quota] = {
        ("project", "7"): Quota(requests=5),
        ("model", "m"): Quota(queued=3),
    }
    found = of_subjects(own, {"token": Quota(concurrent=2), "project": Quota(requests=1)}, 1, 2, 7, "m")
    asked = wants(found, ("requests", "concurrent", "queued"), 9)
    assert [(want.level, want.subject, want.kind, want.limit) for want in asked] == [
        ("token", "1", "concurrent", 2),
        ("project", "7", "requests", 5),
        ("model", "m", "queued", 3),
    ]
    assert of_subjects({}, {}, 1, 2, 7, "m") == []


def test_the_headers_tell_the_tightest_limit_of_each_rate() -> None:
    asked = [
        Want("token", "1", "requests", 100, 1),
        Want("project", "7", "requests", 50, 1),
        Want("project", "7", "tokens", 9000, 40),
    ]
    assert dict(headers(asked, [(99, 0.6), (3, 47.2), (8960, 0.27)])) == {
        b"x-ratelimit-limit-requests": b"50",
        b"x-ratelimit-remaining-requests": b"3",
        b"x-ratelimit-reset-requests": b"47.2s",
        b"x-ratelimit-limit-tokens": b"9000",
        b"x-ratelimit-remaining-tokens": b"8960",
        b"x-ratelimit-reset-tokens": b"270ms",
    }


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "0ms"), (0.02, "20ms"), (1.5, "1.5s"), (59.0, "59s"), (360, "6m0s")]
)
def test_durations_are_written_as_openai_writes_them(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_the_sites_quotas_come_from_one_setting() -> None:
    read = parse({"BERTH_LIMITS": "project.requests=600, project.tokens=200000,token.concurrent=64"})
    assert read.limits == {"project": Quota(requests=600, tokens=200000), "token": Quota(concurrent=64)}
    for wrong in ("project.speed=3", "team.requests=3", "project.requests=0", "project.requests"):
        with pytest.raises(ConfigError, match="BERTH_LIMITS"):
            parse({"BERTH_LIMITS": wrong})
