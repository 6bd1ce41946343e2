"""Who may speak for a pilot, and registering: a compare-and-set."""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from datetime import UTC, datetime, timedelta

import pytest

from gpuworker import wire
from tests.flow.dataplane import Plane
from tests.flow.pilot_client import Pilot, registered, seen, state_of


async def test_only_the_pilots_own_key_opens_the_door(plane: Plane) -> None:
    pilot, _ = registered(plane)
    other = wire.derive_key(plane.settings.site_key, "portal", str(uuid.uuid4()))
    ingress_key = wire.derive_key(plane.settings.site_key, "ingress", pilot.id)
    body = wire.dumps(pilot.sync_of())
    for token in ("", "x", other, ingress_key, plane.seeded.token):
        assert (await pilot.call("sync", body, token))[0] == 401
    assert (await pilot.call("sync", body))[0] == 200


async def test_bodies_that_are_not_the_wires_are_refused_with_a_reason(plane: Plane) -> None:
    pilot, _ = registered(plane)
    for body in (b"", b"{", b"[]", b"{}", json.dumps({"pilot": "no-uuid"}).encode()):
        status, said = await pilot.call("sync", body)
        assert (status, said["error"]["code"]) == (400, "invalid_json")
    status, said = await pilot.call("sync", json.dumps({"pilot": pilot.id}).encode())
    assert status == 400 and "missing" in said["error"]["message"]
    bad = pilot.sync_of(seen("not-an-id"))
    assert (await pilot.call("sync", wire.dumps(bad)))[0] == 400
    assert (await pilot.call("nonsense", wire.dumps(bad)))[0] == 404


async def test_of_two_jobs_that_register_one_wins_and_stays(plane: Plane) -> None:
    id_ = plane.new_pilot("submitted", job_id=77)
    plane.sql("UPDATE fleet_pilot SET job_id = NULL, state = 'planned' WHERE id = %s", (id_,))
    jobs = [Pilot(plane, id_, job_id) for job_id in range(80, 88)]
    answers = await asyncio.gather(*(job.register() for job in jobs))
    assert sorted(status for status, _ in answers) == [200] + [409] * 7
    winner = next(job for job, (status, _) in zip(jobs, answers, strict=True) if status == 200)
    assert plane.sql("SELECT agent_job_id, node FROM fleet_pilot") == [(winner.job_id, "gpu01")]
    assert (await winner.register())[0] == 200  # its agent was restarted
    loser = next(job for job in jobs if job is not winner)
    assert (await loser.sync())[0] == 409


async def test_registering_answers_what_is_wanted(plane: Plane) -> None:
    id_ = plane.new_pilot("pending", job_id=77)
    replica = plane.new_replica(id_)
    end = datetime.now(UTC) + timedelta(hours=1)
    plane.sql("UPDATE fleet_pilot SET slurm_end_at = %s WHERE id = %s", (end, id_))
    plane.sql(
        """UPDATE catalog_environment SET python = '/env/bin/python', prologue = %s, image = '/apps/vllm.sif',
             image_gpu = 'nv', image_binds = '["/apps"]'""",
        ("module load cuda/12\r\nexport A=1",),
    )
    status, said = await Pilot(plane, id_).register()
    assert status == 200
    (wanted,) = said["desired"]
    assert (wanted["id"], wanted["state"], wanted["python"]) == (replica, "hot", "/env/bin/python")
    assert wanted["prologue"] == "module load cuda/12\nexport A=1"
    assert (wanted["image"], wanted["image_gpu"], wanted["binds"]) == ("/apps/vllm.sif", "nv", ["/apps"])
    assert (wanted["args"], wanted["gpus"], wanted["cap"]) == ({"load_s": 0.1}, [0], 4)
    assert abs(said["deadline_at"] - end.timestamp()) < 0.01
    assert (said["drain"], said["cancels"], said["want_log"]) == (False, [], False)


async def test_a_pilot_that_has_ended_is_told_so(plane: Plane) -> None:
    pilot, _ = registered(plane)
    plane.sql("UPDATE fleet_pilot SET state = 'ended', ended_at = now()")
    assert (await pilot.register())[0] == 410
    assert (await pilot.sync())[0] == 410


async def test_a_pilot_that_no_row_knows_is_told_to_wait_and_once_adopted_to_register_again(
    plane: Plane,
) -> None:
    lost = Pilot(plane, str(uuid.uuid4()))
    assert (await lost.register())[0] == 503
    assert (await lost.sync())[0] == 503
    pilot, _ = registered(plane)
    plane.sql("UPDATE fleet_pilot SET agent_job_id = NULL, registered_at = NULL")
    assert (await pilot.sync())[0] == 428
    assert (await pilot.register())[0] == 200
    assert (await pilot.sync())[0] == 200


async def test_a_job_that_cannot_serve_registers_to_say_why(plane: Plane) -> None:
    id_ = plane.new_pilot("pending", job_id=77)
    why = "This job asked for 2 GPUs and has 1: " + "x" * 500 + "\0"
    status, _ = await Pilot(plane, id_).register(refusal=why)
    assert status == 200
    ((said,),) = plane.sql("SELECT said_ending FROM fleet_pilot")
    assert said == "refused: " + why.replace("\0", "\ufffd")


@pytest.mark.parametrize("behind_s", [-600.0, 0.0, 600.0])
async def test_a_jobs_start_is_kept_by_the_portals_clock(plane: Plane, behind_s: float) -> None:
    pilot = Pilot(plane, plane.new_pilot("pending", job_id=77))
    theirs = time.time() - behind_s
    assert (await pilot.register(started_at=theirs - 30, agent_at=theirs - 29, sent_at=theirs))[0] == 200
    (began,) = plane.sql("SELECT extract(epoch FROM now() - job_started_at) FROM fleet_pilot")[0]
    assert 28 <= float(began) <= 60


async def test_an_agent_that_starts_again_on_a_clock_that_was_set_back_is_heard(plane: Plane) -> None:
    pilot, replica = registered(plane)
    assert (await pilot.sync(seen(replica, "starting")))[0] == 200
    pilot.seq -= 500
    await pilot.sync(seen(replica))
    assert state_of(plane, replica) == "starting", "a late report of the same agent changes nothing"
    assert (await pilot.register())[0] == 200
    await pilot.sync(seen(replica))
    assert state_of(plane, replica) == "hot"
