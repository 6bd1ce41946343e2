"""What people ask of models: pin, unpin, evict, and of profiles and jobs that nobody knows."""

from __future__ import annotations

from typing import Any

import pytest
import redis as redis_library

from portal.accounts.models import User
from portal.fleet.models import Command, Decision, Pilot, PoolState, ProfileState
from portal.fleet.times import FOR_EVER
from tests.flow.tick_world import World

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def world(redis: redis_library.Redis) -> World:
    return World(redis)


@pytest.fixture
def ada(db: None) -> User:
    return User.objects.create_user("ada")


def done(world: World, kind: str, after_s: float = 1.0, **target: Any) -> tuple[str, str]:
    command = world.give(Command.Kind(kind), **target)
    world.tick(after_s)
    command.refresh_from_db()
    return command.state, command.result


def test_a_pinned_model_is_started_and_stays_past_its_keep_alive(world: World, ada: User) -> None:
    state, result = done(world, "pin", pool=world.pool, args={"for_s": 1000}, created_by=ada)
    assert state == "done" and result.startswith("llama is kept resident until 20")
    assert Decision.objects.get(kind="pin").reason.startswith("ada pinned it: llama is kept resident until ")
    pilot = world.pilot()
    world.start(pilot)
    world.report(pilot)
    world.tick(500)
    world.report(pilot, idle_for_s=500)
    world.tick(1)
    assert world.replica(pilot).state == "hot"
    assert done(world, "unpin", pool=world.pool)[0] == "done"
    world.report(pilot, idle_for_s=502)
    world.tick(1)
    assert world.replica(pilot).state == "draining"
    assert done(world, "unpin", pool=world.pool) == ("refused", "llama was not pinned.")


def test_a_pin_without_an_end_is_for_ever(world: World) -> None:
    assert done(world, "pin", pool=world.pool) == ("done", "llama is kept resident for ever.")
    assert PoolState.objects.get().pinned_until == FOR_EVER


def test_a_pin_of_a_paused_or_latched_model_says_what_is_in_its_way(world: World) -> None:
    done(world, "pause", pool=world.pool)
    assert done(world, "pin", pool=world.pool)[1].endswith("before the command resume.")
    done(world, "resume", pool=world.pool)
    PoolState.objects.update(latched_at=world.at(), reason="Its weights are gone.")
    said = done(world, "wake", pool=world.pool)[1]
    assert said.endswith(
        "It is latched, and nothing is started before the command relaunch: Its weights are gone."
    )


def test_evicting_drains_every_replica_and_kills_none_that_is_busy(world: World, ada: User) -> None:
    pilot = world.hot_pilot()
    PoolState.objects.update_or_create(pool=world.pool, defaults={"interest_until": world.at()})
    world.report(pilot, in_flight=3)
    state, result = done(world, "evict", pool=world.pool, created_by=ada)
    assert state == "done" and result.startswith("ada asked to evict llama. 1 replica drains. ")
    assert "pause it to keep it away" in result
    assert world.replica(pilot).state == "draining" and world.slurm.cancelled == []
    pilot.refresh_from_db()
    assert pilot.state == "up"
    row = Decision.objects.filter(kind="drain_replica").latest("id")
    assert (row.pool, row.reason) == ("llama", "ada asked to evict llama.")
    assert PoolState.objects.get().interest_until is None
    assert done(world, "evict", pool=world.pool) == ("refused", "No replica of llama was left to drain.")


def test_a_pinned_model_is_not_evicted(world: World) -> None:
    pilot = world.hot_pilot()
    done(world, "pin", pool=world.pool)
    assert done(world, "evict", pool=world.pool) == (
        "refused", "llama is pinned for ever: give the command unpin first.",
    )  # fmt: skip
    assert world.replica(pilot).state == "hot"


def test_a_held_profile_is_opened_again(world: World) -> None:
    ProfileState.objects.update_or_create(
        profile=world.profile, defaults={"latched_at": world.at(), "reason": "Its account is not valid."}
    )
    world.ask()
    world.tick()
    assert not Pilot.objects.exists()
    assert done(world, "relaunch", args={"profile": "gpu"}) == (
        "done",
        "Jobs are submitted under profile gpu again.",
    )
    world.tick()
    assert Pilot.objects.count() == 1
    assert Decision.objects.get(kind="relaunch").inputs["profile"] == "gpu"
    assert done(world, "relaunch", args={"profile": "x"}) == ("refused", "There is no profile 'x'.")


def test_each_command_that_moves_nothing_leaves_a_row_that_tells_who_asked(world: World) -> None:
    for kind in ("pause", "resume", "wake", "pin", "unpin", "relaunch"):
        done(world, kind, pool=world.pool, args={"by": "lena at the command line"})
    told = list(
        Decision.objects.filter(inputs__has_key="command").order_by("id").values_list("kind", "reason")
    )
    assert [kind for kind, _ in told] == ["pause", "resume", "wake", "pin", "unpin", "relaunch"]
    assert all(reason.startswith("lena at the command line ") for _, reason in told)
    done(world, "pause")
    row = Decision.objects.latest("id")
    assert (row.pool, row.reason) == ("", "Someone asked for it: The fleet starts nothing from now on.")


def unknown_job(world: World) -> int:
    job_id = world.slurm.add(f"berth-{world.config.instance}-0f0e0d0c-0b0a-4908-8706-050403020100")
    world.tick(1)
    assert str(job_id) in world.cluster().orphans
    return job_id


def test_an_unknown_job_is_adopted(world: World, ada: User) -> None:
    job_id = unknown_job(world)
    state, result = done(world, "adopt", args={"job_id": job_id, "profile": "gpu"}, created_by=ada)
    assert state == "done" and result.startswith(f"ada took job {job_id}")
    assert world.pilot().job_id == job_id
    state, result = done(world, "adopt", args={"job_id": job_id})
    assert (state, result) == ("refused", f"Slurm's last listing shows no unknown job {job_id} of ours.")


def test_an_unknown_job_is_rejected_once_slurm_answers(world: World) -> None:
    job_id = unknown_job(world)
    world.slurm.silent = "scancel: no answer"
    command = world.give(Command.Kind.REJECT, args={"job_id": job_id})
    world.tick(1)
    command.refresh_from_db()
    assert (command.state, command.result) == ("pending", "Slurm does not answer: scancel: no answer")
    world.slurm.silent = ""
    world.tick(1)
    command.refresh_from_db()
    assert command.state == "done" and world.slurm.cancelled == [job_id]
    assert done(world, "reject") == ("refused", "It names no job.")
