"""An agent that cannot serve says so before its job ends: whose word counts, and that nothing is lost by it."""

from __future__ import annotations

import uuid

from gpuworker import wire
from tests.flow.dataplane import Plane
from tests.flow.speaking import Pilot, registered

WHY = "the node has 1 GPU of the 2 that were asked for: look at gres.conf"


def _word(pilot: Pilot, why: str = WHY, node: str = "gpu02") -> bytes:
    return wire.dumps(wire.CannotServe(pilot.id, pilot.job_id, node, why))


def _row(plane: Plane) -> tuple[object, ...]:
    return plane.sql("SELECT cannot_serve, agent_job_id, node, state FROM fleet_pilot")[0]


async def test_its_words_and_its_node_stand_in_the_row(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    status, said = await pilot.call("cannot-serve", _word(pilot, "two\nlines,\0 and \t more"))
    assert (status, said) == (200, {"taken": True})
    assert _row(plane) == ("two lines,\ufffd and more", 77, "gpu02", "pending")


async def test_one_that_comes_before_sbatch_has_answered_counts(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("submitted", job_id=77))
    plane.sql("UPDATE fleet_pilot SET job_id = NULL, state = 'planned'")
    assert (await pilot.call("cannot-serve", _word(pilot)))[0] == 200
    assert _row(plane)[:2] == (WHY, 77)


async def test_a_job_that_is_not_the_pilots_says_nothing_of_it(plane: Plane) -> None:
    pilot, _ = registered(plane)
    other = Pilot(plane, pilot.id, job_id=78)
    assert (await other.call("cannot-serve", _word(other)))[0] == 409
    waiting = plane.new_pilot("pending", job_id=90)
    late = Pilot(plane, waiting, job_id=91)
    assert (await late.call("cannot-serve", _word(late)))[0] == 409
    assert plane.sql("SELECT DISTINCT cannot_serve FROM fleet_pilot") == [("",)]


async def test_a_pilot_that_has_ended_or_is_unknown_is_told_so(plane: Plane) -> None:
    pilot, _ = registered(plane)
    plane.sql("UPDATE fleet_pilot SET state = 'ended', ended_at = now()")
    assert (await pilot.call("cannot-serve", _word(pilot)))[0] == 410
    stranger = Pilot(plane, str(uuid.uuid4()))
    assert (await stranger.call("cannot-serve", _word(stranger)))[0] == 503
    assert plane.sql("SELECT cannot_serve FROM fleet_pilot") == [("",)]


async def test_an_agent_without_a_word_still_ends_its_pilot(plane: Plane) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    assert (await pilot.call("cannot-serve", _word(pilot, "")))[0] == 200
    assert _row(plane)[0] == "its agent did not say why"
