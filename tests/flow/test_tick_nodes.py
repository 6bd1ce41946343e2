"""A pool over several nodes, through the tick: its job, its replica, what is counted, and who may not join."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import redis as redis_library
from django.core.exceptions import ValidationError
from django.db import IntegrityError, transaction

from portal.catalog.models import Engine, Environment, Pool, Profile
from portal.db.transaction import moving
from portal.fleet.explain import explain
from portal.fleet.facts import read_facts
from portal.fleet.models import Pilot, PoolState, ProfileState, Replica
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    made = World(redis)
    Profile.objects.update(nodes=2)
    made.add_pool("wide", nodes=2, gpus=2)
    return made


def test_its_job_has_the_nodes_and_its_replica_all_of_their_gpus(world: World) -> None:
    world.ask("wide")
    world.tick()
    pilot = world.pilot()
    assert (pilot.nodes, pilot.gpus) == (2, 4)
    assert world.replica(pilot).gpu_indices == [0, 1, 2, 3]
    (spec,) = world.slurm.submitted
    assert (spec.nodes, spec.gpus, spec.gres, spec.mem_mb) == (2, 2, "gpu:a100:2", 16_000)
    script = world.slurm.scripts[0].splitlines()
    for line in ("#SBATCH --nodes=2", "#SBATCH --ntasks=2", "export BERTH_NODES=2", "export BERTH_GPUS=2"):
        assert line in script


def test_a_job_of_several_nodes_hosts_nothing_else_and_one_of_one_node_not_it(world: World) -> None:
    world.ask("llama")
    world.tick()
    world.start(world.pilot())
    world.ask("wide")
    world.tick()
    assert sorted(Pilot.objects.values_list("nodes", "gpus")) == [(1, 2), (2, 4)]
    wide = Pilot.objects.get(nodes=2)
    world.start(wide)
    Profile.objects.update(max_pilots=2)
    small = world.add_pool("small")
    world.ask(small.name)
    world.tick()
    assert [r.pool_id for r in wide.replicas.all()] == ["wide"]
    assert Replica.objects.get(pool=small).pilot.nodes == 1


@pytest.mark.parametrize(("nodes", "gpus"), [(1, 2), (2, 4), (2, 1)])
def test_without_a_profile_of_its_shape_it_says_what_is_missing(world: World, nodes: int, gpus: int) -> None:
    Profile.objects.update(nodes=nodes, gpus=gpus)
    world.ask("wide")
    world.tick()
    assert not Pilot.objects.exists()
    said = PoolState.objects.get(pool_id="wide").reason
    assert said == "No enabled profile has 2 nodes with exactly 2 GPUs, and 8000 MiB, on each for it."


def test_all_of_its_gpus_count_against_the_caps(world: World) -> None:
    world.config = dataclasses.replace(world.config, max_gpus=3)
    world.ask("wide")
    world.tick()
    assert not Pilot.objects.exists()
    assert "All of the 3 GPUs" in PoolState.objects.get(pool_id="wide").reason


def test_a_start_is_estimated_for_as_many_nodes_as_its_models_need(world: World) -> None:
    world.slurm.starts_at = world.now + 600
    world.tick()
    (asked,) = world.slurm.estimated
    assert (asked.nodes, asked.gpus, asked.gres) == (2, 2, "gpu:a100:2")
    with moving() as cur:
        facts = read_facts(cur)
    wide, narrow = facts["wide"], facts["llama"]
    assert [p.of_wider for p in (*wide.profiles, *narrow.profiles)] == [False, True]
    assert explain(narrow, world.now).reason.count(" or before") == 1
    assert " or before" not in explain(wide, world.now).reason
    # A job of one node is all that a profile can give whose GPUs are not its model's.
    Pool.objects.filter(name="wide").update(gpus=1)
    world.tick(301)
    assert world.slurm.estimated[-1].nodes == 1


@pytest.mark.parametrize(
    ("other", "gpu_types", "held"),
    [
        ({"nodes": 2, "gpus": 2}, [], True),
        ({"nodes": 2, "gpus": 4}, [], False),  # cut off pieces of nodes
        ({"nodes": 1, "gpus": 2}, [], False),
        ({"nodes": 2, "gpus": 2, "gpu_type": "v100"}, ["a100"], False),
        ({"nodes": 2, "gpus": 2, "gpu_type": "a100"}, ["a100"], True),
    ],
)
def test_a_profile_is_to_blame_only_where_another_one_fits_what_waits(
    world: World, other: dict[str, Any], gpu_types: list[str], held: bool
) -> None:
    second = Profile.objects.create(
        name="other", partition="gpu", mem_mb=16_000, cost=9.0, **{"gpu_type": "h100", **other}
    )
    Pool.objects.get(name="wide").profiles.add(second)
    Environment.objects.update(gpu_types=gpu_types)
    Profile.objects.filter(name="gpu").update(extra={"output": "/home/me/log"})
    world.ask("wide")
    world.tick()
    assert world.slurm.submitted == []
    assert ProfileState.objects.filter(profile__name="gpu", latched_at__isnull=False).exists() == held


@pytest.mark.parametrize(
    ("engine", "args", "wrong"),
    [
        (Engine.VLLM, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, ""),
        (Engine.VLLM, {"tensor_parallel_size": 4}, ""),
        (Engine.VLLM, {}, "2 nodes x 2 GPUs = 4"),
        (Engine.VLLM, {"tensor_parallel_size": 2}, "2 nodes x 2 GPUs = 4"),
        (Engine.VLLM, {"tensor_parallel_size": "4"}, "2 nodes x 2 GPUs = 4"),
        (Engine.TORCH, {}, "does not run over several nodes"),
        (Engine.ECHO, {}, ""),
    ],
)
def test_what_its_engine_could_not_be_cut_into_is_refused_when_it_is_saved(
    world: World, engine: Engine, args: dict[str, object], wrong: str
) -> None:
    environment = Environment.objects.create(name="other", engine=engine, python="/x/python")
    pool = Pool(name="p", environment=environment, nodes=2, gpus=2, args=args)
    if not wrong:
        pool.full_clean()
        return
    with pytest.raises(ValidationError, match=wrong):
        pool.full_clean()


@pytest.mark.parametrize(
    ("engine", "gpus", "args", "wrong"),
    [
        (Engine.VLLM, 4, {"tensor_parallel_size": 4}, ""),
        (Engine.VLLM, 4, {"tensor_parallel_size": 2, "pipeline_parallel_size": 2}, ""),
        (Engine.VLLM, 4, {"pipeline_parallel_size": 4}, ""),
        (Engine.VLLM, 1, {}, ""),
        (Engine.VLLM, 4, {}, "the pool's number of GPUs, 4, e.g. 4 and 1"),
        (Engine.VLLM, 1, {"tensor_parallel_size": 8}, "number of GPUs, 1,"),
        (Engine.VLLM, 4, {"tensor_parallel_size": 4.0}, "number of GPUs, 4,"),
        (Engine.VLLM, 4, {"tensor_parallel_size": -4, "pipeline_parallel_size": -1}, "number of GPUs, 4,"),
        (Engine.VLLM, 0, {"tensor_parallel_size": 2}, ""),
        (Engine.VLLM, 4, {"device": "cpu"}, ""),
        (Engine.TORCH, 4, {}, ""),
        (Engine.ECHO, 4, {}, ""),
    ],
)
def test_of_one_node_too_its_gpus_are_all_used_and_no_more_than_it_has(
    world: World, engine: Engine, gpus: int, args: dict[str, object], wrong: str
) -> None:
    environment = Environment.objects.create(name="other", engine=engine, python="/x/python")
    pool = Pool(name="p", environment=environment, gpus=gpus, args=args)
    if not wrong:
        pool.full_clean()
        return
    with pytest.raises(ValidationError, match=wrong):
        pool.full_clean()


@pytest.mark.parametrize("values", [{"gpus": 0}, {"sleep_level": 1}, {"nodes": 0}])
def test_the_database_refuses_what_makes_no_sense_over_several_nodes(
    world: World, values: dict[str, int]
) -> None:
    with pytest.raises(IntegrityError), transaction.atomic():
        Pool.objects.filter(name="wide").update(**values)
