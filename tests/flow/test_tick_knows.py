"""What the policies get to know: facts of the cluster, measured waits and times, heads of lines, owners, pins."""

from __future__ import annotations

from datetime import timedelta

import pytest
import redis as redis_library

from gpuworker.wire import ObservedReplica
from portal.accounts.models import Project
from portal.fleet.models import Fit, Pilot, PoolState, ProfileState
from scheduler.observe import measures
from scheduler.observe.observation import Observed
from scheduler.observe.reports import Heard
from scheduler.observe.snapshot import free_until, snapshot_of
from scheduler.policy.snapshot import Snapshot
from scheduler.slurm.protocol import NodeGroup, PartitionInfo, ReservationInfo
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


def snapshot(world: World) -> Snapshot:
    seen = Observed({})
    return snapshot_of(world.site(), seen, world.config, world.now)


def test_reservations_of_a_whole_partition_bound_its_jobs(world: World) -> None:
    world.slurm.described = {"gpu": PartitionInfo("gpu", True, None, (NodeGroup(4, "idle", "", "8", "1"),))}
    at = world.now + 3600
    world.slurm.reserved = {
        "class": ReservationInfo("class", at - 600, at, "gpu1", "gpu", "", 1),
        "maint": ReservationInfo("maint", at, at + 60, "gpu[1-4]", "", "MAINT", 4),
    }
    world.tick()
    (profile,) = snapshot(world).profiles
    assert profile.free_until == at, "one node's reservation leaves three; all nodes' leaves none"
    asked = world.cluster().facts_at
    world.tick(5)
    assert world.cluster().facts_at == asked, "not every tick"
    world.slurm.silent = "slurmctld is away"
    world.tick(120)
    assert snapshot(world).profiles[0].free_until == at, "silence keeps what was known"


def test_a_reservation_that_has_begun_bounds_nothing_new() -> None:
    groups = {"gpu": {"groups": [{"count": 2}]}}
    taken = {"starts_at": 50.0, "partition": "", "flags": "MAINT,ALL_NODES", "node_count": 9}
    assert free_until("gpu", groups, [taken], 100.0) is None
    assert free_until("gpu", groups, [taken], 40.0) == 50.0
    assert free_until("gpu", groups, [{**taken, "partition": "cpu"}], 40.0) is None


def test_the_reservation_in_which_its_own_jobs_run_bounds_nothing() -> None:
    groups = {"gpu": {"groups": [{"count": 2}]}}
    ours = {"name": "ours", "starts_at": 50.0, "partition": "", "flags": "", "node_count": 2}
    assert free_until("gpu", groups, [ours], 40.0, "ours,class") is None
    assert (
        free_until("gpu", groups, [ours, {**ours, "name": "maint", "starts_at": 60.0}], 40.0, "ours") == 60.0
    )


def test_slurms_estimate_is_asked_for_now_and_then(world: World) -> None:
    world.slurm.starts_at = world.now + 900
    world.tick()
    assert snapshot(world).profiles[0].starts_in_s == pytest.approx(898)
    world.slurm.starts_at = None  # refused
    world.tick(60)
    assert snapshot(world).profiles[0].starts_in_s == pytest.approx(838), "five minutes have not gone by"
    world.tick(300)
    assert snapshot(world).profiles[0].starts_in_s is None, "what Slurm refuses has no start"


def test_waits_are_those_of_the_profiles_jobs(world: World) -> None:
    world.hot_pilot()
    row = Pilot.objects.get()
    Pilot.objects.filter(pk=row.pk).update(
        submitted_at=world.at() - timedelta(seconds=300), registered_at=world.at() - timedelta(seconds=60)
    )
    world.tick(measures.EVERY_S + 1)
    assert ProfileState.objects.get().wait_p90_s == pytest.approx(240)
    assert snapshot(world).profiles[0].wait_p50_s == pytest.approx(240)


def test_engine_times_come_from_what_pilots_report(world: World) -> None:
    pilot = world.hot_pilot()
    Fit.objects.create(pool=world.pool, gpu_type="a100", load_s=3)
    PoolState.objects.update_or_create(pool=world.pool)
    report = ObservedReplica(
        "r", "llama", "llama-model", "hot", "", 4, 0, 0, 1.0, 2.0, None, "", 0, 1, "1", served=4, busy_s=10.0
    )
    heard = {str(pilot.pk): Heard(world.now, 1, {"r": report})}
    assert measures.service_times({str(pilot.pk): "a100"}, heard) == {("llama", "a100"): (4, 10.0)}
    measures.remember(world.cluster(), [pilot], heard, world.now + 100)
    assert snapshot(world).pools[0].service_s == 2.5
    assert snapshot(world).pools[0].fits["a100"].service_s == 2.5


def test_the_head_of_a_line_says_how_long_it_has_waited(world: World) -> None:
    Project.objects.create(id=1, slug="physics", name="Physics", weight=3.0)
    world.ask()
    world.now += 7
    world.ask()
    world.now += 5
    (pool,) = snapshot(world).pools
    assert (pool.queued, pool.queued_batch, pool.queued_held) == (2, 0, 0)
    assert pool.waited_s == pytest.approx(12, abs=1)
    assert pool.weight == 3.0


def test_a_pool_for_one_project_is_its_own(world: World) -> None:
    project = Project.objects.create(slug="chem", name="Chemistry", max_gpus=3)
    assert snapshot(world).pools[0].project == "", "public"
    model = world.pool.served.get()
    model.is_public = False
    model.save()
    model.projects.add(project)
    now = snapshot(world)
    assert now.pools[0].project == "chem"
    assert now.limits.project_gpus == {"chem": 3}
    other = Project.objects.create(slug="bio", name="Biology")
    model.projects.add(other)
    assert snapshot(world).pools[0].project == ""
