"""Observation only observes, and a tick that dies between what it saw and what follows from it loses nothing for good."""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Callable
from datetime import timedelta

import pytest
import redis as redis_library

from portal.catalog.models import Profile
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Cluster, Decision, FleetEvent, Pilot, ProfileState
from scheduler import reconcile
from scheduler.act.launches import obstacle
from scheduler.jobs.pilots import intent
from scheduler.observe.listing import listen
from scheduler.observe.observation import Observed, observe
from scheduler.policy.consequences import AdoptJob, CancelUnknownJob, EndPilot, FollowJobs, PauseCluster
from tests.flow.test_tick_realities import portal_listens
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def look(world: World) -> Observed:
    """Observe at this moment, and do nothing about it."""
    site = world.site()
    listings = listen(site, world.config, world.client_for, world.now)
    return observe(site, world.redis, listings, world.client_for, world.config, world.now)


def stored(world: World) -> tuple[object, ...]:
    """Return everything that only `act` may change."""
    return (
        sorted(Pilot.objects.values_list("pk", "state", "job_id", "end_reason")),
        Decision.objects.count(),
        FleetEvent.objects.count(),
        list(Cluster.objects.values_list("paused", flat=True)),
        list(world.slurm.cancelled),
        len(world.slurm.submitted),
        list(world.slurm.forgotten),
    )


def planned(world: World) -> uuid.UUID:
    """Plan a pilot whose job nobody has submitted."""
    pilot = intent(world.config, world.profile)
    with moving() as cur:
        fleet.plan(cur, pilot, world.at())
    return pilot.id


def orphan(world: World) -> int:
    """Add a running job that bears our name and that no row knows."""
    return world.slurm.add(f"berth-{world.config.instance}-{uuid.uuid4()}", "RUNNING")


def restored(world: World) -> None:
    """Put the cluster's row back to an earlier time, as a dump has it."""
    Cluster.objects.update(ticked_at=world.at() - timedelta(days=1))


def test_observation_moves_ends_and_cancels_nothing(world: World) -> None:
    Profile.objects.update(max_pilots=9)
    failed = world.hot_pilot()
    world.slurm.set(failed.job_id or 0, "NODE_FAIL")
    begun = planned(world)
    world.slurm.add(f"berth-{world.config.instance}-{begun}")
    orphan(world)
    world.tick(0.1)  # too early for a listing: Slurm is asked once a second
    world.now += 3600
    listings = look(world)  # the first that shows the unknown job
    assert not [one for one in listings.consequences if isinstance(one, CancelUnknownJob)]
    before = stored(world)
    world.now += 3600
    seen = {type(one) for one in look(world).consequences}
    assert seen >= {AdoptJob, EndPilot, FollowJobs, CancelUnknownJob}
    assert stored(world) == before
    failed.refresh_from_db()
    assert failed.slurm_state == "NODE_FAIL", "what was seen is stored"


def test_observation_pauses_nothing(world: World) -> None:
    world.tick()
    world.tick()
    orphan(world)
    restored(world)
    before = stored(world)
    world.now += 2
    assert [one for one in look(world).consequences if isinstance(one, PauseCluster)]
    assert stored(world) == before


def die(world: World, monkeypatch: pytest.MonkeyPatch, after_s: float = 2.0) -> None:
    """Run a tick that dies between what it saw and the first thing that follows from it."""

    def explode(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(reconcile, "act", explode)
        with pytest.raises(ZeroDivisionError):
            world.tick(after_s)


def test_a_tick_that_dies_forgets_no_end_that_slurm_moved(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    pilot = world.hot_pilot()

    def ends(at: float) -> None:
        world.slurm.listed = [dataclasses.replace(job, ends_at=at) for job in world.slurm.listed]

    ends(world.now + 14_000)
    world.report(pilot, in_flight=1)
    world.tick()
    ends(world.now + 120)  # preemption with a GraceTime shows in nothing else
    die(world, monkeypatch)
    pilot.refresh_from_db()
    assert pilot.state == "up"
    world.report(pilot, in_flight=1)
    world.tick()
    pilot.refresh_from_db()
    assert pilot.state == "draining"
    assert pilot.slurm_end_at is not None and pilot.slurm_end_at.timestamp() < world.now + 121


def test_a_tick_that_dies_forgets_no_restored_database(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.tick()
    world.tick()
    orphan(world)
    restored(world)
    world.ask()
    die(world, monkeypatch)
    world.tick(0.5)  # before the next listing is due
    assert world.cluster().paused
    assert not world.slurm.submitted, "nothing is started a second time"
    assert Decision.objects.filter(kind="pause").count() == 1


def told(*kinds: str) -> list[str]:
    """Return the kinds of the rows, of these, in their order."""
    return list(Decision.objects.filter(kind__in=kinds).order_by("id").values_list("kind", flat=True))


def test_a_tick_that_dies_leaves_a_silence_of_slurm_to_be_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.tick()
    for silent, rows in (("squeue: no answer", ["slurm_silent"]), ("", ["slurm_silent", "slurm_answers"])):
        world.slurm.silent = silent
        die(world, monkeypatch)
        assert told("slurm_silent", "slurm_answers") == rows[:-1]
        world.tick()
        world.tick()
        assert told("slurm_silent", "slurm_answers") == rows


def test_a_tick_that_dies_leaves_a_silence_of_an_agent_to_be_told(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.hot_pilot()
    for run in (die, die, None, None):
        for _ in range(15):
            portal_listens(world)
            if run is None:
                world.tick(2)
            else:
                die(world, monkeypatch)
        assert told("silent") == ([] if run else ["silent"])


def test_nodes_are_judged_after_the_ends_of_the_same_tick(world: World) -> None:
    world.config = dataclasses.replace(world.config, bad_node_after=1)
    world.ask()
    world.tick()
    pilot = world.pilot()
    world.slurm.listed = [dataclasses.replace(job, nodes="gpu07") for job in world.slurm.listed]
    world.slurm.set(pilot.job_id or 0, "FAILED")
    world.tick()
    assert told("ended", "exclude_node") == ["ended", "exclude_node"]


@pytest.mark.parametrize(
    ("spoil", "reason", "passes", "insisted"),
    [
        (lambda w: Profile.objects.update(enabled=False), "No jobs are launched under", False, False),
        (lambda w: setattr(w.slurm, "silent", "no answer"), "Slurm does not answer", True, False),
        (lambda w: Cluster.objects.update(paused=True), "The fleet is paused", True, True),
        (
            lambda w: ProfileState.objects.update_or_create(
                profile=w.profile, defaults={"latched_at": w.at(), "reason": "no"}
            ),
            "Profile gpu is held: no",
            False,
            True,
        ),
        (lambda w: Profile.objects.update(max_pilots=0), "may have no more jobs now", True, False),
        (
            lambda w: setattr(w, "config", dataclasses.replace(w.config, max_gpus=1)),
            "All GPUs that Berth may have",
            True,
            False,
        ),
    ],
)
def test_what_keeps_a_job_from_being_launched(
    world: World, spoil: Callable[[World], object], reason: str, passes: bool, insisted: bool
) -> None:
    world.tick()
    assert obstacle(world.actor(), world.profile, 2) is None
    spoil(world)
    world.tick()
    world.profile.refresh_from_db()
    found = obstacle(world.actor(), world.profile, 2)
    assert found is not None and reason in found.reason and found.passes == passes
    assert (obstacle(world.actor(), world.profile, 2, insist=True) is None) == insisted
