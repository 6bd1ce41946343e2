"""Words and addresses that no table, or no URL, can hold, and clients that break: each holds its own way at most."""

from __future__ import annotations

import dataclasses

import pytest

from portal.catalog.models import Access, Profile
from portal.fleet.models import Pilot
from scheduler.slurm.protocol import NoAnswer, PartitionInfo, Rejected, SlurmError, clean
from scheduler.slurm.spec import JobSpec
from tests.flow.test_tick_ways import add_profile, pilot_of, raises, serve, world
from tests.flow.tick_world import World

__all__ = ["world"]

pytestmark = pytest.mark.django_db(transaction=True)

ODD = [pytest.param("a\x00b", id="NUL"), pytest.param("a\ud800b", id="half a surrogate pair")]


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", [NoAnswer, RuntimeError])
def test_odd_words_of_a_silence(world: World, odd: str, kind: type[Exception]) -> None:
    world.slurms["alps"].jobs = raises(kind(odd))  # type: ignore[method-assign]
    world.ask("llama")
    world.tick()
    assert pilot_of("gpu").state == "submitted"
    assert clean(odd) in world.way("alps", "alps").error


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize("kind", [Rejected, NoAnswer, RuntimeError])
def test_odd_words_of_a_submission(
    world: World, odd: str, kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    def submit(script: str, spec: JobSpec) -> int:
        raise kind(odd)

    monkeypatch.setattr(world.slurms["alps"], "submit", submit)
    world.ask("alpaca")
    world.ask("llama")
    world.tick()
    assert pilot_of("gpu").state == "submitted"
    said = [world.way("alps", "alps").error, *Pilot.objects.values_list("end_reason", flat=True)]
    assert any(clean(odd) in text for text in said)


@pytest.mark.parametrize("odd", [*ODD, pytest.param("x" * 5000, id="long")])
def test_odd_words_of_a_job(world: World, odd: str) -> None:
    far = world.slurms["alps"]
    there = serve(world, "alpaca", far, "far")
    far.listed = [dataclasses.replace(job, reason=odd, nodes=odd, partition=odd) for job in far.listed]
    far.add(f"berth-{world.config.instance}-{odd}", "RUNNING")
    far.described = {odd: PartitionInfo(odd, True, None, ())}
    world.ask("llama")
    world.tick(120)
    there.refresh_from_db()
    assert there.state == "up" and there.slurm_reason == clean(odd)[:200]
    assert there.node == clean(odd) and pilot_of("gpu").state == "submitted"
    assert list(world.cluster("alps").partitions) == [clean(odd)]


def test_a_long_list_of_nodes_is_kept_whole(world: World) -> None:
    far = world.slurms["alps"]
    there = serve(world, "alpaca", far, "far")
    nodes = ",".join(f"gpu-rack{i:02d}-n{7 * i}" for i in range(40))
    far.listed = [dataclasses.replace(job, nodes=nodes) for job in far.listed]
    world.tick(5)
    there.refresh_from_db()
    assert len(nodes) > 200 and there.node == nodes


def test_a_state_of_many_letters_stops_no_tick(world: World) -> None:
    far = world.slurms["alps"]
    serve(world, "alpaca", far, "far")
    far.set(101, "RUNNING" * 9)
    world.ask("llama")
    world.tick(5)
    assert pilot_of("gpu").state == "submitted"


@pytest.mark.parametrize("address", ["http://[slurm]:6820", "http://[fd00::1:6820", "http://slurm:port"])
def test_an_address_that_is_no_url_stops_no_tick(world: World, address: str) -> None:
    access = Access.objects.create(name="bad", kind="rest", cluster="c3", address=address, token_file="/x/t")
    add_profile(world, "p3", access)
    world.ask("llama")
    world.tick()
    assert pilot_of("gpu").state == "submitted"


def test_a_client_that_breaks_stops_no_tick_where_it_is_the_only_one(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    Profile.objects.filter(name="far").delete()

    def submit(script: str, spec: JobSpec) -> int:
        raise KeyError("job_id")

    def partitions() -> dict[str, PartitionInfo]:
        raise KeyError("nodes")

    monkeypatch.setattr(world.slurm, "submit", submit)
    monkeypatch.setattr(world.slurm, "partitions", partitions)
    world.ask("llama")
    world.tick()
    assert pilot_of("gpu").state == "planned" and "the client failed: KeyError" in world.way().error
    world.tick(120)
    assert world.cluster().ticked_at is not None


def test_words_of_any_error_can_be_stored_and_are_bounded() -> None:
    for error in (SlurmError("a\x00\udfffb"), NoAnswer("a\x00\udfffb"), Rejected("a\x00\udfffb")):
        assert str(error) == "a\ufffd?b"
    assert Rejected("a\x00").reason == "a\ufffd"
    assert len(str(NoAnswer("x" * 100_000))) == 4000 and str(NoAnswer("x" * 100_000)).endswith("…")
