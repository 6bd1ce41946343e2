"""GET /api/v1/fleet, /commands, /decisions and POST /commands: for operators only."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.issue import issue_token
from portal.fleet.models import Cluster, Command, Decision
from tests.api.world import ApiClient, World, pilot_row, replica_row
from tests.ways import way_row

OPERATORS = {"owner": 403, "mate": 403, "manager": 403, "outsider": 403, "operator": 200, "anonymous": 401}


@pytest.mark.parametrize("path", ["fleet", "commands", "decisions"])
def test_only_operators_with_the_scope_see_it(world: World, path: str) -> None:
    got = {name: api.send("GET", path).status_code for name, api in world.everyone().items()}
    assert got == OPERATORS
    _, minted = issue_token(world.operator.user, world.other, "n", ["read"])
    assert ApiClient(minted.text).send("GET", path).status_code == 403
    assert world.operator.browser.send("GET", path).status_code == 200
    assert world.owner.browser.send("GET", path).status_code == 403


def test_a_user_who_is_no_operator_any_more_loses_the_fleet(world: World) -> None:
    world.operator.user.is_operator = False
    world.operator.user.save()
    assert world.operator.api.send("GET", "fleet").status_code == 403


def test_the_fleet_shows_pilots_with_replicas_and_no_address(world: World) -> None:
    pilot = pilot_row(world)
    replica_row(world, pilot)
    pilot_row(world, state="ended", ended_at=timezone.now() - timedelta(days=2), job_id=1)
    answer = world.operator.api.send("GET", "fleet")
    (shown,) = answer.json()["pilots"]
    assert (shown["job_id"], shown["state"], shown["node"]) == (4711, "up", "gpu03")
    assert [replica["state"] for replica in shown["replicas"]] == ["hot"]
    assert "10.1.2.3" not in answer.content.decode()


def cluster(world: World) -> dict[str, Any]:
    (told,) = world.operator.api.send("GET", "fleet").json()["clusters"]
    found: dict[str, Any] = told
    return found


def test_a_silent_slurm_is_said_with_since_when(world: World) -> None:
    now = timezone.now()
    row = way_row()
    assert not cluster(world)["slurm_answers"] and "not been queried" in cluster(world)["slurm"]
    row.tried_at = row.answered_at = now
    row.save()
    Cluster.objects.update(ticked_at=now)
    assert cluster(world)["slurm_answers"] and cluster(world)["loop_runs"]
    row.answered_at, row.error = now - timedelta(minutes=7), "squeue timed out after 20 s"
    row.save()
    told = cluster(world)
    assert not told["slurm_answers"]
    assert told["slurm"].startswith("No answer from Slurm since ") and "(7 min ago)" in told["slurm"]
    assert "squeue timed out" in told["slurm"]


def test_a_loop_that_does_not_tick_is_said(world: World) -> None:
    Cluster.objects.create(name="main", ticked_at=timezone.now() - timedelta(minutes=5))
    assert not cluster(world)["loop_runs"] and "Celery" in cluster(world)["loop"]


def test_an_operators_command_waits_for_the_loop(
    world: World, sent: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    pilot = pilot_row(world)
    with django_capture_on_commit_callbacks(execute=True):
        answer = world.operator.api.send("POST", "commands", {"kind": "drain", "pilot": str(pilot.id)})
    assert answer.status_code == 202 and answer.json()["state"] == "pending"
    command = Command.objects.get()
    assert (command.pilot, command.created_by) == (pilot, world.operator.user)
    assert [channel for channel, _ in sent] == ["tick"]
    listed = world.operator.api.send("GET", "commands").json()["results"]
    assert [row["id"] for row in listed] == [command.pk]


def test_nobody_else_gives_commands(world: World) -> None:
    got = {
        name: api.send("POST", "commands", {"kind": "pause"}).status_code
        for name, api in world.everyone().items()
    }
    assert got == OPERATORS | {"operator": 202}
    assert Command.objects.count() == 1


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"kind": "explode"},
        {"kind": "drain"},
        {"kind": "drain", "pilot": "PILOT", "replica": "REPLICA"},
        {"kind": "drain", "pool": "surf"},
        {"kind": "cancel", "replica": "REPLICA"},
        {"kind": "relaunch"},
        {"kind": "wake", "pool": "nothing"},
        {"kind": "log", "pilot": str(uuid4())},
        {"kind": "log", "pilot": "x"},
        {"kind": "drain", "pilot": "ENDED"},
        {"kind": "drain", "replica": "FAILED"},
    ],
)
def test_a_command_without_its_proper_target_is_refused(world: World, wish: dict[str, str]) -> None:
    now = timezone.now()
    pilot, ended = pilot_row(world), pilot_row(world, state="ended", ended_at=now, job_id=1)
    replica, failed = (
        replica_row(world, pilot),
        replica_row(world, ended, state="failed", ended_at=now, end_reason="x"),
    )
    ids = {"PILOT": pilot.id, "ENDED": ended.id, "REPLICA": replica.id, "FAILED": failed.id}
    wish = {name: str(ids.get(value, value)) for name, value in wish.items()}
    answer = world.operator.api.send("POST", "commands", wish)
    assert answer.status_code == 400, answer.content
    assert answer.json()["error"]["code"] == "invalid_parameter" and answer.json()["error"]["param"]
    assert not Command.objects.exists()


def test_the_log_of_an_ended_pilot_may_be_asked_for(world: World) -> None:
    ended = pilot_row(world, state="ended", ended_at=timezone.now())
    answer = world.operator.api.send("POST", "commands", {"kind": "log", "pilot": str(ended.id)})
    assert answer.status_code == 202


def test_decisions_come_newest_first_with_reasons(world: World) -> None:
    for pool, reason in (("surf", "3 requests wait"), ("turf", "idle for 600 s")):
        Decision.objects.create(
            at=timezone.now(), kind="launch", pool=pool, reason=reason, inputs={"queued": 3}
        )
    told = world.operator.api.send("GET", "decisions").json()["results"]
    assert [row["reason"] for row in told] == ["idle for 600 s", "3 requests wait"]
    told = world.operator.api.get("/api/v1/decisions?pool=surf").json()["results"]
    assert [row["pool"] for row in told] == ["surf"]
