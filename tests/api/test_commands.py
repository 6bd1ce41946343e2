"""POST /api/v1/commands and its button: names as people write them, arguments, and refusals that help."""

from __future__ import annotations

from typing import Any

import pytest
from django.utils import timezone

from portal.catalog.models import Model
from portal.fleet.models import Cluster, Command
from portal.fleet.times import seconds_of
from portal.services.commands import NewCommand, give
from tests.api.world import World, pilot_row
from tests.ways import way_row


def post(world: World, **wish: Any) -> Any:
    return world.operator.api.send("POST", "commands", wish)


def refusal(world: World, **wish: Any) -> tuple[str, str]:
    answer = post(world, **wish)
    assert answer.status_code == 400, answer.content
    assert not Command.objects.exists()
    error = answer.json()["error"]
    return error["param"], error["message"]


def test_a_pool_is_named_by_itself_or_by_a_model_in_it(world: World) -> None:
    Model.objects.create(name="org/tide", pool=world.pool, kind=Model.Kind.DNN)
    for name in ("surf", "org/tide"):
        assert post(world, kind="pin", pool=name, args={"for_s": 7200}).status_code == 202
    command = Command.objects.get()
    assert (command.pool, command.args) == (world.pool, {"for_s": 7200.0}), "asked twice, written once"


def test_a_pilot_is_named_by_job_id_name_or_the_beginning_of_its_id(world: World) -> None:
    pilot = pilot_row(world)
    pilot_row(world, state="ended", ended_at=timezone.now(), planned_at=timezone.now())
    for name in ("4711", str(pilot.id), str(pilot.id)[:8], pilot.job_name):
        assert post(world, kind="drain", pilot=name).status_code == 202
    assert Command.objects.get().pilot == pilot


@pytest.mark.parametrize(
    ("wish", "param", "part"),
    [
        ({"kind": "pin", "pool": "sruf"}, "pool", "No model or pool is named 'sruf'. Did you mean surf?"),
        ({"kind": "pin", "pool": "xyz"}, "pool", "There are: surf."),
        ({"kind": "drain", "pilot": "4712"}, "pilot", "Did you mean 4711?"),
        ({"kind": "relaunch", "args": {"profile": "gpus"}}, "args", "Did you mean gpu?"),
        ({"kind": "relaunch", "pool": "surf", "args": {"profile": "gpu"}}, "kind", "exactly one target"),
        ({"kind": "relaunch"}, "kind", "exactly one target: pool or args.profile"),
        ({"kind": "adopt"}, "kind", "exactly one target: args.job_id"),
        ({"kind": "adopt", "args": {"job_id": 99}}, "args", "Did you mean 98?"),
        ({"kind": "pin", "pool": "surf", "args": {"for_s": -1}}, "args", "more than 0"),
        ({"kind": "pin", "pool": "surf", "args": {"for_s": True}}, "args", "more than 0"),
        ({"kind": "pin", "pool": "surf", "args": {"for_s": "2h"}}, "args", "a number of seconds"),
        ({"kind": "pin", "pool": "surf", "args": {"fors": 1}}, "args", "no argument 'fors'; it takes only: for_s"),
        ({"kind": "evict", "pool": "surf", "args": {"by": "root"}}, "args", "it takes none"),
        ({"kind": "evict"}, "kind", "exactly one target: pool"),
        ({"kind": "test_launch", "pilot": "4711"}, "kind", "exactly one target: pool"),
    ],
)  # fmt: skip
def test_a_bad_command_is_refused_with_what_would_be_right(
    world: World, wish: dict[str, Any], param: str, part: str
) -> None:
    pilot_row(world)
    Cluster.objects.update(orphans={"98": 1.0})
    named, message = refusal(world, **wish)
    assert named == param and part in message


def test_unknown_jobs_are_shown_and_may_be_adopted_or_rejected(world: World) -> None:
    job = {
        "job_id": 98, "name": "berth-x-y", "state": "PENDING", "reason": "Priority", "partition": "gpu", "nodes": "",
        "submitted_at": None, "started_at": None, "ends_at": None,
    }  # fmt: skip
    way_row(jobs={"y": [job]})
    Cluster.objects.update(orphans={"98": timezone.now().timestamp() - 300})
    (told,) = world.operator.api.send("GET", "fleet").json()["clusters"]
    (unknown,) = told["unknown_jobs"]
    assert (unknown["job_id"], unknown["slurm"]) == (98, "PENDING: other jobs are ahead of it")
    page = world.operator.browser.get("/fleet/").content.decode()
    assert "Unknown jobs." in page and "other jobs are ahead of it" in page and "5 min ago" in page
    answer = world.operator.browser.post(
        "/fleet/commands/", {"kind": "adopt", "job_id": "98", "profile": "gpu"}
    )
    assert answer.status_code == 302
    assert post(world, kind="reject", args={"job_id": 98}).status_code == 202
    assert list(Command.objects.order_by("id").values_list("kind", "args")) == [
        ("adopt", {"job_id": 98, "profile": "gpu"}), ("reject", {"job_id": 98}),
    ]  # fmt: skip


def test_a_command_of_somebody_without_an_account_says_who(world: World) -> None:
    command = give(NewCommand(Command.Kind.PIN, pool=world.pool), "lena at the command line")
    assert command.created_by is None and command.args == {"by": "lena at the command line"}
    give(NewCommand(Command.Kind.UNPIN, pool=world.pool), world.operator.user)
    page = world.operator.browser.get("/fleet/").content.decode()
    assert "lena at the command line" in page and "unpin" in page


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90", 90), ("90s", 90), ("30min", 1800), ("1h30m", 5400), ("2 h", 7200), ("1.5d", 129_600)],
)
def test_lengths_of_time_are_read_as_people_write_them(text: str, seconds: float) -> None:
    assert seconds_of(text) == seconds


@pytest.mark.parametrize("text", ["", "soon", "2 hours", "h2", "2026-11-21"])
def test_what_is_no_length_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        seconds_of(text)
