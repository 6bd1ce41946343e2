"""Jobs on their way for what nobody wants any more."""

from __future__ import annotations

from dataclasses import replace

from portal.fleet.states import PilotState, ReplicaState
from scheduler.policy.allocation import Allocation
from scheduler.policy.snapshot import Snapshot
from scheduler.policy.views import Limits, PilotView, PoolView, ProfileView, ReplicaView
from scheduler.policy.withdrawal import unwanted_jobs

NOW = 1_000_000.0
LIMITS = Limits(pilot_idle_s=60, launch_backoff_s=5, latch_after=3)
POOL = PoolView("llama", ("gpu",), 1, 1000, keep_alive_s=600, load_s=10)
PILOT = PilotView("p", "gpu", PilotState.PENDING, 2, 4000, True, planned_at=NOW - 7200)
REPLICA = ReplicaView("r", "llama", "p", ReplicaState.WANTED, (0,), 1000, wanted_at=NOW - 7200)


def withdrawn(pool: PoolView = POOL, pilot: PilotView = PILOT, replica: ReplicaView = REPLICA) -> list[str]:
    profiles = (ProfileView("gpu", True, 2, 4000, 4),)
    snapshot = Snapshot((pool,), (pilot,), (replica,), profiles, LIMITS, NOW)
    return [decision.reason for decision in unwanted_jobs(Allocation(snapshot))]


def test_a_job_is_withdrawn_once_nobody_wants_its_model() -> None:
    assert withdrawn() == ["Nobody wants llama any more: its job is withdrawn before it starts."]


def test_a_job_keeps_its_place_while_its_model_is_wanted() -> None:
    assert withdrawn(replace(POOL, queued=1)) == []
    assert withdrawn(replace(POOL, interest_until=NOW + 1)) == []
    assert withdrawn(replace(POOL, pinned_until=NOW + 1)) == []
    assert withdrawn(replace(POOL, min_replicas=1)) == []


def test_it_outlives_its_callers_for_as_long_as_the_model_would_have() -> None:
    assert withdrawn(replica=replace(REPLICA, wanted_at=NOW - 599)) == []


def test_a_job_that_runs_is_not_withdrawn() -> None:
    assert withdrawn(pilot=replace(PILOT, state=PilotState.UP)) == []
