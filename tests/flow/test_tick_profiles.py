"""What a profile asks for, as the job that is submitted under it: GPUs in several ways, memory, CPUs only."""

from __future__ import annotations

from typing import Any

import pytest
import redis as redis_library

from portal.catalog.models import Environment, Pool, Profile
from portal.fleet.models import PoolState, ProfileState, Replica
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


@pytest.mark.parametrize(
    ("profile", "spec", "script"),
    [
        ({}, {"gres": "gpu:a100:2", "mem_mb": 16_000}, ["--gres=gpu:a100:2", "--mem=16000M"]),
        ({"gpu_type_asked": False, "constraint": "a100&ib"}, {"gres": "gpu:2"}, ["--constraint=a100&ib"]),
        (
            {"gpu_request": "gpus-per-node"},
            {"gres": "", "gpus_per_node": "a100:2"},
            ["--gpus-per-node=a100:2"],
        ),
        ({"gpu_request": "gpus-per-node", "gpu_type": ""}, {"gpus_per_node": "2"}, ["--gpus-per-node=2"]),
        ({"mem_request": "mem-per-gpu"}, {"mem_mb": 0, "mem_per_gpu_mb": 8_000}, ["--mem-per-gpu=8000M"]),
        ({"mem_request": "none"}, {"mem_mb": 0, "mem_per_gpu_mb": 0}, []),
        (
            {"exclusive": "node", "nice": 50, "wckey": "waves"},
            {},
            ["--exclusive", "--nice=50", "--wckey=waves"],
        ),
        ({"reservation": "ours", "licenses": "ansys:2"}, {}, ["--reservation=ours", "--licenses=ansys:2"]),
        ({"extra": {"switches": "1@60", "contiguous": True}}, {}, ["--switches=1@60", "--contiguous"]),
    ],
    ids=str,
)
def test_what_a_profile_says_stands_in_the_job(
    world: World, profile: dict[str, Any], spec: dict[str, Any], script: list[str]
) -> None:
    Profile.objects.update(**profile)
    Profile.objects.get().full_clean()
    world.ask()
    world.tick()
    (asked,) = world.slurm.submitted
    assert {name: getattr(asked, name) for name in spec} == spec
    lines = world.slurm.scripts[0].splitlines()
    assert {f"#SBATCH {option}" for option in script} <= set(lines)
    assert ("export BERTH_MEM_MB=16000" in lines) == (profile.get("mem_request") != "none")


def test_a_directive_that_got_past_the_catalog_is_refused_and_holds_its_profile(world: World) -> None:
    Profile.objects.update(extra={"output": "/home/me/log"})
    other = Profile.objects.create(name="other", partition="gpu", gpus=2, cost=9.0)
    Pool.objects.get().profiles.add(other)
    world.ask()
    world.tick()
    assert world.slurm.submitted == []
    held = ProfileState.objects.get(latched_at__isnull=False)
    assert held.profile.name == "gpu"
    assert "output cannot be set: Berth reads a job's log where it had it written" in held.reason
    world.tick()
    assert [spec.partition for spec in world.slurm.submitted] == ["gpu"]


def test_a_model_without_gpus_runs_in_a_job_without_from_its_request_to_its_place(world: World) -> None:
    Profile.objects.update(gpus=0, gpu_type="")
    Pool.objects.update(gpus=0)
    Profile.objects.get().full_clean()
    Pool.objects.get().full_clean()
    world.ask()
    world.tick()
    pilot = world.pilot()
    (asked,) = world.slurm.submitted
    assert (pilot.gpus, asked.gres, asked.gpus_per_node, asked.mem_mb) == (0, "", "", 16_000)
    assert "gpu:" not in world.slurm.scripts[0] and "--gpus" not in world.slurm.scripts[0]
    assert world.replica(pilot).gpu_indices == []
    world.start(pilot)
    world.report(pilot, "starting")
    world.tick()
    world.report(pilot, "hot")
    world.tick()
    assert (world.pilot().state, world.replica(pilot).state) == ("up", "hot")
    # A second one joins it: its memory is what counts.
    second = world.add_pool("mistral", gpus=0, mem_mb=4_000)
    world.ask(second.name)
    world.tick()
    joined = Replica.objects.get(pool=second)
    assert (joined.pilot_id, joined.gpu_indices) == (pilot.pk, [])
    assert len(world.slurm.submitted) == 1


def test_an_environments_types_of_gpu_are_told_where_no_profile_has_them(world: World) -> None:
    Environment.objects.update(gpu_types=["h100"])
    world.ask()
    world.tick()
    assert world.slurm.submitted == []
    assert PoolState.objects.get().reason == "Its environment runs on GPUs of type h100, and gpu have others."
