"""GET /api/v1/models and POST /api/v1/models/{name}/wake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.catalog.models import Model
from portal.fleet.models import Cluster, Command, PoolState
from tests.api.world import ApiClient, Person, World, pilot_row, replica_row


def phase(person: Person) -> dict[str, Any]:
    told = person.api.send("GET", "models").json()["results"]
    found: dict[str, Any] = next(model for model in told if model["name"] == "surf")["phase"]
    return found


def test_a_model_says_how_ready_it_is_and_why(world: World) -> None:
    assert phase(world.owner)["residency"] == "not_loaded"
    pilot = pilot_row(
        world,
        state="pending",
        slurm_state="PENDING",
        slurm_reason="Resources",
        up_at=None,
        registered_at=None,
    )
    replica = replica_row(world, pilot, state="wanted", started_at=None, hot_at=None)
    assert phase(world.owner) == {
        "residency": "starting",
        "eta_s": None,
        "reason": "A GPU job has been submitted; it is next, and waits for GPUs to become free.",
    }
    replica.state, replica.started_at = "starting", timezone.now() - timedelta(minutes=1)
    replica.save()
    assert 170 < phase(world.owner)["eta_s"] < 190
    replica.state, replica.hot_at = "hot", timezone.now()
    replica.save()
    assert phase(world.owner) == {"residency": "ready", "eta_s": 0.0, "reason": ""}


def test_a_latched_pool_tells_those_who_wait_why(world: World) -> None:
    PoolState.objects.create(pool=world.pool, latched_at=timezone.now(), reason="config.json is missing")
    assert phase(world.owner) == {
        "residency": "unavailable",
        "eta_s": None,
        "reason": "config.json is missing",
    }


def test_a_paused_fleet_is_said(world: World) -> None:
    Cluster.objects.create(name="main", paused=True)
    assert "paused" in phase(world.owner)["reason"]


def test_models_of_other_projects_and_disabled_ones_are_not_listed(world: World) -> None:
    secret = Model.objects.create(name="org/secret", pool=world.pool, is_public=False)
    secret.projects.add(world.project)
    Model.objects.create(name="off", pool=world.pool, enabled=False)
    names = {
        name: [m["name"] for m in api.send("GET", "models").json().get("results", [])]
        for name, api in world.everyone().items()
    }
    assert names == {
        "owner": ["org/secret", "surf"],
        "mate": ["org/secret", "surf"],
        "manager": ["org/secret", "surf"],
        "outsider": ["surf"],
        "operator": ["surf"],
        "anonymous": [],
    }


def test_the_list_costs_the_same_however_many_models(
    world: World, django_assert_max_num_queries: Any
) -> None:
    for i in range(20):
        Model.objects.create(name=f"m{i}", pool=world.pool)
    with django_assert_max_num_queries(8):
        world.owner.api.send("GET", "models")


def test_waking_writes_one_command_and_tells_the_loop(world: World, sent: list[tuple[str, str]]) -> None:
    first, second = (world.owner.api.send("POST", "models/surf/wake") for _ in range(2))
    assert first.status_code == second.status_code == 202
    command = Command.objects.get()
    assert (command.kind, command.pool, command.created_by) == ("wake", world.pool, world.owner.user)
    assert first.json()["id"] == second.json()["id"] == command.pk


def test_a_name_with_a_slash_is_woken(world: World) -> None:
    Model.objects.create(name="org/name", pool=world.pool)
    assert world.owner.api.send("POST", "models/org/name/wake").status_code == 202


@pytest.mark.parametrize("name", ["nothing", "secret"])
def test_what_one_may_not_use_one_may_not_wake(world: World, name: str) -> None:
    Model.objects.create(name="secret", pool=world.pool, is_public=False)
    answer = world.outsider.api.send("POST", f"models/{name}/wake")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert ApiClient().send("POST", "models/surf/wake").status_code == 401
    assert not Command.objects.exists()
