"""The routing rule: the largest working set that still has room."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from portal.policy.routing import Candidate, choose, choose_alone

candidates = st.lists(
    st.builds(Candidate, st.uuids().map(str), st.integers(0, 6), st.integers(1, 4), st.booleans()),
    max_size=6,
    unique_by=lambda c: c.id,
)


@given(candidates)
def test_it_fills_the_fullest_first_so_that_light_ones_drain(found: list[Candidate]) -> None:
    open_ = [c for c in found if c.in_flight < c.cap and not c.shut]
    chosen = choose(found)
    if chosen is None:
        assert not open_
    else:
        (it,) = [c for c in open_ if c.id == chosen]
        assert it.in_flight == max(c.in_flight for c in open_)


@given(candidates)
def test_a_suspect_runs_alone_or_keeps_one_replica_free(found: list[Candidate]) -> None:
    now, later = choose_alone(found)
    assert now is None or later is None
    by_id = {c.id: c for c in found}
    if now is not None:
        assert by_id[now].in_flight == 0 and not by_id[now].shut
    elif later is not None:
        assert by_id[later].in_flight == min(c.in_flight for c in found if not c.shut) > 0
    else:
        assert all(c.shut for c in found)
