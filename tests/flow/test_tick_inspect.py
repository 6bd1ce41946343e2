"""inspect: a job looks at the folder of a model that is to be registered; one is launched where none is there."""

from __future__ import annotations

import json

import pytest
import redis as redis_library
from django.db import connection

from gpuworker import wire
from portal.accounts.models import Project, User
from portal.catalog.models import Model, Profile
from portal.db.connections import plain
from portal.fleet.models import Candidate, Cluster, Command, Decision, Pilot, ProfileState
from portal.workerapi import findings, wishes
from tests.api.world import FOUND
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def wished(world: World, name: str = "tide") -> tuple[Candidate, Command]:
    project, _ = Project.objects.get_or_create(
        slug="waves", defaults={"name": "W", "model_roots": ["/models"]}
    )
    row = Candidate.objects.create(name=name, path="/models/tide", project=project, profile=world.profile)
    user, _ = User.objects.get_or_create(username="ada")
    command = world.give(Command.Kind.INSPECT, args={"candidate": row.pk}, created_by=user)
    return row, command


def asked(pilot: Pilot) -> list[wire.InspectWish]:
    with connection.cursor() as cur:
        return wishes.inspections(plain(cur), pilot.pk)


def answer(world: World, pilot: Pilot, row: Candidate, error: str = "", **facts: object) -> bool:
    found = None if error else wire.read(wire.ModelFacts, FOUND | facts)
    with connection.cursor() as cur:
        return findings.keep(plain(cur), pilot.pk, [wire.Inspected(row.pk, error, found)], world.at())


def test_a_job_is_launched_kept_while_it_is_needed_and_let_go(world: World) -> None:
    row, command = wished(world)
    world.tick()
    command.refresh_from_db()
    assert command.state == "pending" and "A job of profile gpu was asked for" in command.result
    pilot = world.pilot()
    launch = Decision.objects.get(kind="launch")
    assert launch.pilot == pilot.pk and launch.reason.startswith("ada wants to register tide")
    for _ in range(5):  # far beyond pilot_idle_s
        world.tick(60)
    assert world.pilot().pk == pilot.pk and Pilot.objects.count() == 1
    command.refresh_from_db()
    assert command.result == "Waiting for job 101 of profile gpu to start."
    world.start(pilot)
    world.report(pilot)
    world.tick()
    assert asked(pilot) == [wire.InspectWish(row.pk, "/models/tide", ["/models"])]
    assert answer(world, pilot, row)
    assert not answer(world, pilot, row, "again"), "what was found stays"
    assert asked(pilot) == []
    world.tick()
    command.refresh_from_db()
    row.refresh_from_db()
    assert (command.state, command.result) == ("done", "The folder of tide was looked at.")
    assert row.found == FOUND and row.jobs == 1
    world.report(pilot)
    world.tick(100)
    pilot.refresh_from_db()
    assert pilot.state == "draining", "nobody needs it any more"


def test_a_job_that_is_there_is_asked(world: World) -> None:
    pilot = world.hot_pilot()
    row, _ = wished(world)
    world.tick()
    assert [wish.id for wish in asked(pilot)] == [row.pk] and Pilot.objects.count() == 1
    other = Profile.objects.create(name="other", partition="gpu", gpu_type="a100")
    second, _ = wished(world, "two")
    Candidate.objects.filter(pk=second.pk).update(profile=other)
    world.tick()
    second.refresh_from_db()
    assert second.pilot_id not in (None, pilot.pk), "what another profile's jobs see may differ"


def test_what_a_folder_is_not_is_told(world: World) -> None:
    pilot = world.hot_pilot()
    row, command = wished(world)
    world.tick()
    answer(world, pilot, row, "There is no /models/tide/config.json on the compute node.")
    world.tick()
    command.refresh_from_db()
    assert command.state == "failed" and command.result == (
        "tide: There is no /models/tide/config.json on the compute node."
    )


def test_an_agent_that_never_answers_and_jobs_that_end_are_given_up(world: World) -> None:
    pilot = world.hot_pilot()
    row, command = wished(world)
    world.tick()
    for _ in range(13):
        world.tick(10)
        world.report(pilot, in_flight=1)
    row.refresh_from_db()
    assert row.error == "Job 101 did not answer within 2 min." and row.found_at is not None
    row, command = wished(world, "two")
    for _ in range(2):
        world.tick()
        row.refresh_from_db()
        assert row.pilot is not None and row.pilot.job_id is not None
        world.slurm.set(row.pilot.job_id, "FAILED")
        world.tick()
        world.tick()
    world.tick()
    command.refresh_from_db()
    assert command.state == "failed" and command.result.startswith(
        "2 jobs ended before one could look at the folder."
    )


def test_what_holds_back_other_launches_holds_back_this_one(world: World) -> None:
    row, command = wished(world)
    Cluster.objects.create(name="main", paused=True)
    world.tick()
    command.refresh_from_db()
    assert command.state == "pending" and command.result.startswith("The fleet is paused")
    Cluster.objects.update(paused=False)
    ProfileState.objects.update_or_create(
        profile=world.profile, defaults={"latched_at": world.at(), "reason": "Slurm says no."}
    )
    world.tick()
    command.refresh_from_db()
    row.refresh_from_db()
    assert (command.state, command.result) == ("refused", "Profile gpu is held: Slurm says no.")
    assert row.error == command.result and not Pilot.objects.exists()


def test_what_a_pilot_says_is_bounded_and_heard_only_of_what_it_was_asked(world: World) -> None:
    pilot = world.hot_pilot()
    row, _ = wished(world)
    world.tick()
    stranger = Pilot.objects.get(pk=pilot.pk)
    with connection.cursor() as cur:
        none = wire.Inspected(row.pk + 1, "x", None)
        assert not findings.keep(plain(cur), stranger.pk, [none], world.at())
    answer(
        world, pilot, row, folder="/m" * 9999, dtype="a\0\ud800b", parameters=-(10**30), weights_bytes=10**30,
        other_weights=["x"] * 999,
    )  # fmt: skip
    row.refresh_from_db()
    assert row.found is not None
    assert (
        len(row.found["folder"]) == 1000
        and row.found["dtype"] == "a?b"
        and len(row.found["other_weights"]) == 20
    )
    assert (row.found["parameters"], row.found["weights_bytes"]) == (0, 2**50)


def test_a_registered_model_is_held_to_its_projects_roots_at_each_load(world: World) -> None:
    pilot = world.hot_pilot()

    def roots() -> list[str]:
        with connection.cursor() as cur:
            row = wishes.pilot_row(plain(cur), pilot.pk)
            assert row is not None
            [replica] = wishes.answer(plain(cur), pilot.pk, row, [], 1.0).desired
        return replica.roots

    assert roots() == [], "an administrator wrote it: anywhere"
    project = Project.objects.create(slug="waves", name="W", model_roots=["/models"])
    Model.objects.update(registered_for=project)
    assert roots() == ["/models"]
    Project.objects.update(model_roots=[])
    assert roots() == ["/dev/null"] and json.dumps(roots())
