"""Whose weights are copied ahead of need, and where."""

from __future__ import annotations

from dataclasses import replace

import pytest

from scheduler.policy.decide import decide
from scheduler.policy.decisions import Decision, DrainReplica, StageWeights
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import PilotView
from tests.unit.test_policy_decide import NOW, fleet, pilot, pool, replica

BUSY = replica("r2", pool="other", gpu_indices=(0, 1, 2, 3), in_flight=1, idle_since=None)


def full(*pilots: PilotView, **changes: object) -> Snapshot:
    """Make jobs that another model fills, under a cap."""
    there = tuple(replace(BUSY, id=f"r-{p.id}", pilot=p.id) for p in pilots)
    made = fleet((pool(queued=1), pool("other")), pilots, there)
    profiles = tuple(replace(profile, max_pilots=len(pilots)) for profile in made.profiles)
    return replace(made, profiles=profiles, **changes)  # type: ignore[arg-type]


def staged(decisions: list[Decision]) -> list[tuple[str, str]]:
    return [(d.pool, d.pilot) for d in decisions if isinstance(d, StageWeights)]


def test_what_waits_for_room_has_its_weights_staged_where_it_may_come() -> None:
    made = decide(full(pilot(scratch=True)))
    assert staged(made) == [("llama", "p1")]
    (wish,) = (d for d in made if isinstance(d, StageWeights))
    assert wish.reason == "llama waits for room: its weights are copied to the node meanwhile."


def test_where_room_is_being_cleared_comes_first() -> None:
    idle = replace(BUSY, id="r9", pilot="p2", in_flight=0, idle_since=NOW - 500)
    case = full(pilot("p1", scratch=True), pilot("p2", scratch=True))
    case = replace(case, replicas=(case.replicas[0], idle))
    made = decide(case)
    assert any(isinstance(d, DrainReplica) for d in made)
    assert staged(made) == [("llama", "p2")]


@pytest.mark.parametrize(
    "there",
    [
        pilot(),
        pilot(scratch=True, staged=frozenset({"llama"})),
        pilot(scratch=True, stage_wish="llama"),
        pilot(scratch=True, alive=False),
        pilot(scratch=True, state="draining", draining_at=NOW),
        pilot(scratch=True, gpu_type="tiny", gpus=0),
    ],
    ids=["no disk", "there", "on its way", "silent", "draining", "too small"],
)
def test_where_it_is_not_staged(there: PilotView) -> None:
    assert staged(decide(full(there))) == []


def test_one_copy_is_enough() -> None:
    case = full(pilot("p1", scratch=True), pilot("p2", scratch=True, staged=frozenset({"llama"})))
    assert staged(decide(case)) == []


def test_a_pilot_has_one_wish_at_a_time() -> None:
    third = pool("third", queued=1)
    case = full(pilot(scratch=True))
    case = replace(case, pools=(*case.pools, third))
    (first,) = staged(decide(case))
    under_way = replace(case, pilots=(pilot(scratch=True, stage_wish=first[0]),))
    assert staged(decide(under_way)) == []
    met = replace(case, pilots=(pilot(scratch=True, stage_wish=first[0], staged=frozenset({first[0]})),))
    assert staged(decide(met)) == [({"llama": "third", "third": "llama"}[first[0]], "p1")]
    given_up = replace(case, pilots=(pilot(scratch=True, stage_wish="other"),))
    assert len(staged(decide(given_up))) == 1


def test_nothing_is_staged_for_what_gets_its_replica() -> None:
    case = fleet((pool(queued=1),), (pilot(scratch=True),), ())
    assert staged(decide(case)) == []


def test_slurms_silence_stages_nothing() -> None:
    assert staged(decide(full(pilot(scratch=True), silent={"gpu": "Slurm does not answer."}))) == []
