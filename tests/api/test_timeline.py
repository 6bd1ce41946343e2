"""Where a request's seconds went: the pure function behind the timeline."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from portal.ledger.timeline import Facts, timeline

T0 = datetime(2026, 1, 1, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def test_a_hot_model_makes_nobody_wait_for_slurm_or_for_its_load() -> None:
    told = timeline(
        Facts(
            at(100), at(100.5), at(101), at(103),
            job_submitted_at=at(0), job_started_at=at(9), engine_started_at=at(10), engine_ready_at=at(40),
        )
    )  # fmt: skip
    assert (told.slurm_s, told.load_s, told.queue_s, told.engine_s) == (0.0, 0.0, 0.5, 2.5)


def test_what_has_not_happened_has_no_seconds() -> None:
    told = timeline(Facts(at(0), job_submitted_at=at(1)))
    assert (told.queue_s, told.slurm_s, told.load_s, told.engine_s) == (None, None, None, None)
    assert told.times["job_submitted"] == at(1) and told.times["granted"] is None


seconds = st.floats(0, 1000).map(lambda s: round(s, 3))


@given(wait=seconds, run=seconds, steps=st.lists(seconds, min_size=4, max_size=4).map(sorted))
def test_the_parts_add_up_to_the_whole(wait: float, run: float, steps: list[float]) -> None:
    submitted, started, engine, ready = (at(s) for s in steps)
    told = timeline(
        Facts(
            at(0), at(wait), None, at(wait + run), job_submitted_at=submitted, job_started_at=started,
            engine_started_at=engine, engine_ready_at=ready,
        )
    )  # fmt: skip
    parts = [told.queue_s, told.slurm_s, told.load_s, told.engine_s]
    assert all(part is not None and part >= 0 for part in parts)
    assert abs(sum(part for part in parts if part is not None) - (wait + run)) < 0.01


def test_clocks_that_differ_give_no_negative_seconds() -> None:
    told = timeline(Facts(at(0), at(30), None, at(31), job_submitted_at=at(5), job_started_at=at(4.9)))
    assert told.slurm_s == 0.0 and told.queue_s == 30.0
