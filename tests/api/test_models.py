"""GET /api/v1/models and POST /api/v1/models/{name}/wake."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from portal.catalog.models import Pool
from portal.fleet.models import Cluster, Command, Fit, GpuClaim, PoolState, ProfileState
from tests.api.world import ApiClient, Person, World, another_model, pilot_row, replica_row


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
    told = phase(world.owner)
    assert (told["residency"], told["eta_s"]) == ("starting", None)
    assert told["reason"].startswith("surf is not loaded yet. Its Slurm job 4711 was submitted at ")
    assert "it is next, and waits for GPUs to become free" in told["reason"]
    assert [(part["name"], part["seconds"]) for part in told["parts"]] == [("slurm", None), ("load", 240.0)]
    replica.state, replica.started_at = "starting", timezone.now() - timedelta(minutes=1)
    replica.save()
    assert 170 < phase(world.owner)["eta_s"] < 190
    replica.state, replica.hot_at = "hot", timezone.now()
    replica.save()
    told = phase(world.owner)
    assert (told["residency"], told["eta_s"], told["reason"]) == ("ready", 0.0, "")


def test_a_latched_pool_tells_those_who_wait_why(world: World) -> None:
    PoolState.objects.create(pool=world.pool, latched_at=timezone.now(), reason="config.json is missing")
    told = phase(world.owner)
    assert (told["residency"], told["eta_s"]) == ("unavailable", None)
    assert told["reason"] == "surf cannot be started. config.json is missing."
    assert "relaunch it" in told["next_step"]


def test_what_jobs_waited_and_loads_took_is_part_of_the_estimate(world: World) -> None:
    now = timezone.now()
    PoolState.objects.create(pool=world.pool, load_s=100)
    Fit.objects.create(pool=world.pool, gpu_type="a100", load_s=200)
    waits = ProfileState.objects.create(profile=world.profile, wait_p50_s=360, wait_p90_s=1500)
    told = phase(world.owner)
    assert told["eta_s"] == 560 and "waited 6–25 min today, and loading takes 3 min" in told["reason"]
    waits.starts_at = now + timedelta(minutes=30)
    waits.save()
    assert 1990 < phase(world.owner)["eta_s"] <= 2000
    waits.latched_at, waits.reason = now, "Its account is not valid."
    waits.save()
    assert "gpu: Its account is not valid." in phase(world.owner)["reason"]


def test_a_job_with_free_gpus_and_memory_is_room_for_it(world: World) -> None:
    PoolState.objects.create(pool=world.pool, load_s=100)
    job = pilot_row(world, gpus=world.pool.gpus + 1, mem_mb=2 * world.pool.mem_mb)
    told = phase(world.owner)
    assert told["eta_s"] == 100 and "a running job has room for it now, and loading takes" in told["reason"]
    other = Pool.objects.create(name="other", environment=world.pool.environment)
    guest = replica_row(world, job, pool=other, model="other", mem_mb=world.pool.mem_mb + 1)
    assert phase(world.owner)["eta_s"] is None  # its memory is taken
    guest.mem_mb = 0
    guest.save()
    assert phase(world.owner)["eta_s"] == 100
    world.pool.environment.gpu_types, job.gpu_type = ["a100"], "v100"
    world.pool.environment.save()
    job.save()
    assert phase(world.owner)["eta_s"] is None  # its GPUs are none on which the environment runs
    job.gpu_type = "a100"
    job.save()
    assert phase(world.owner)["eta_s"] == 100
    for gpu in range(2):
        GpuClaim.objects.create(pilot=job, gpu=gpu, replica=guest)
    assert phase(world.owner)["eta_s"] is None  # its GPUs are


def test_one_model_can_be_asked_about_by_its_name_with_slashes(world: World) -> None:
    another_model(world, "org/tide")
    told = world.owner.api.send("GET", "models/org/tide").json()
    assert told["name"] == "org/tide" and told["phase"]["reason"].startswith("org/tide is not loaded")
    secret = another_model(world, "org/secret", is_public=False)
    secret.projects.add(world.project)
    got = {name: api.send("GET", "models/org/secret").status_code for name, api in world.everyone().items()}
    assert got == {
        "owner": 200,
        "mate": 200,
        "manager": 200,
        "outsider": 404,
        "operator": 404,
        "anonymous": 401,
    }
    assert world.owner.api.send("GET", "models/nothing").json()["error"]["code"] == "model_not_found"


def test_a_paused_fleet_is_said(world: World) -> None:
    Cluster.objects.create(name="main", paused=True)
    assert "paused" in phase(world.owner)["reason"]


def test_models_of_other_projects_and_disabled_ones_are_not_listed(world: World) -> None:
    secret = another_model(world, "org/secret", is_public=False)
    secret.projects.add(world.project)
    another_model(world, "off", enabled=False)
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
        another_model(world, f"m{i}")
    with django_assert_max_num_queries(8):
        world.owner.api.send("GET", "models")


def test_waking_writes_one_command_and_tells_the_loop(world: World, sent: list[tuple[str, str]]) -> None:
    first, second = (world.owner.api.send("POST", "models/surf/wake") for _ in range(2))
    assert first.status_code == second.status_code == 202
    command = Command.objects.get()
    assert (command.kind, command.pool, command.created_by) == ("wake", world.pool, world.owner.user)
    assert first.json()["id"] == second.json()["id"] == command.pk


def test_a_name_with_a_slash_is_woken(world: World) -> None:
    another_model(world, "org/name")
    assert world.owner.api.send("POST", "models/org/name/wake").status_code == 202


@pytest.mark.parametrize("name", ["nothing", "secret"])
def test_what_one_may_not_use_one_may_not_wake(world: World, name: str) -> None:
    another_model(world, "secret", is_public=False)
    answer = world.outsider.api.send("POST", f"models/{name}/wake")
    assert answer.status_code == 404 and answer.json()["error"]["code"] == "model_not_found"
    assert ApiClient().send("POST", "models/surf/wake").status_code == 401
    assert not Command.objects.exists()
