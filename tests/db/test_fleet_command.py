"""`manage.py fleet …`: what it shows, the commands that it writes, and what it refuses with which next step."""

from __future__ import annotations

import io
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.utils import timezone

from portal.console.table import table
from portal.fleet.models import Cluster, Command, Decision, PoolState, ProfileState
from portal.fleet.times import FOR_EVER
from portal.redis import hints
from tests.api.world import World, build, pilot_row, replica_row, request_row
from tests.ways import way_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(hints, "_send_tick", lambda: None)
    now = timezone.now()
    Cluster.objects.create(name="main", ticked_at=now)
    way_row(tried_at=now, answered_at=now)
    return build()


def run(*argv: str) -> str:
    out = io.StringIO()
    call_command("fleet", *argv, stdout=out, stderr=out)
    return out.getvalue()


def test_status_shows_clusters_models_and_pilots(world: World) -> None:
    replica_row(world, pilot_row(world))
    job = {
        "job_id": 98, "name": "n", "state": "RUNNING", "reason": "None", "partition": "gpu", "nodes": "gpu04",
        "submitted_at": None, "started_at": None, "ends_at": None,
    }  # fmt: skip
    way_row(jobs={"x": [job]})
    Cluster.objects.update(orphans={"98": timezone.now().timestamp()}, paused=True)
    ProfileState.objects.create(
        profile=world.profile, latched_at=timezone.now(), reason="Its account is not valid."
    )
    PoolState.objects.create(pool=world.pool, pinned_until=FOR_EVER)
    said = run("status")
    assert "Slurm answered just now" in said and "`fleet resume` resumes it" in said
    assert "`fleet adopt 98` or `fleet reject 98`" in said
    assert "Profile gpu is held: Its account is not valid. `fleet relaunch --profile gpu`" in said
    assert "surf   ready  now       Pinned for ever." in said
    assert "4711  up     gpu03  59 min     surf hot" in said


def test_why_of_a_model_tells_the_parts_and_the_last_decisions(world: World) -> None:
    ProfileState.objects.create(profile=world.profile, wait_p50_s=360, wait_p90_s=1500)
    Decision.objects.create(
        at=timezone.now(), kind="drain_replica", pool="surf", reason="Nobody has used surf for 600 s."
    )
    said = run("why", "surf").splitlines()
    assert said[0] == "surf: not loaded."
    assert said[1].startswith(
        "surf is not loaded; the first request starts it: jobs like it waited 6–25 min today"
    )
    assert said[2].split() == ["slurm", "6", "min", "jobs", "like", "it", "waited", "6–25", "min", "today"]
    assert said[4].split() == ["total", "10", "min"]
    assert said[5].endswith("drain_replica: Nobody has used surf for 600 s.")


def test_why_of_a_request_tells_its_place(world: World) -> None:
    request_row(world, order_key=1.0)
    row = request_row(world, order_key=2.0)
    said = run("why", str(row.id))
    assert said.startswith(f"Request {row.id} for surf: queued, queue position 2.\nsurf is not loaded;")
    assert "1 request is ahead of this one." in said
    assert "It is not waiting." in run("why", str(request_row(world, "done").id))


def test_decisions_read_as_a_log(world: World) -> None:
    for reason in ("First.", "Second."):
        Decision.objects.create(
            at=timezone.now(), kind="hold", pool="surf", reason=reason, inputs={"queued": 3}
        )
    said = run("decisions", "--model", "surf", "--since", "1h")
    assert said.index("First. (queued 3)") < said.index("Second.")
    assert run("decisions", "--kind", "launch") == "No decision matches.\n"


@pytest.mark.parametrize(
    ("argv", "kind", "target", "args"),
    [
        (["drain", "4711"], "drain", "pilot", {}),
        (["cancel", "4711"], "cancel", "pilot", {}),
        (["log", "4711"], "log", "pilot", {}),
        (["drain", "REPLICA"], "drain", "replica", {}),
        (["wake", "surf", "--for", "2h"], "wake", "pool", {"for_s": 7200.0}),
        (["pin", "surf"], "pin", "pool", {}),
        (["unpin", "surf"], "unpin", "pool", {}),
        (["evict", "surf"], "evict", "pool", {}),
        (["test-launch", "surf"], "test_launch", "pool", {}),
        (["pause", "surf"], "pause", "pool", {}),
        (["pause"], "pause", None, {}),
        (["resume"], "resume", None, {}),
        (["relaunch", "surf"], "relaunch", "pool", {}),
        (["relaunch", "--profile", "gpu"], "relaunch", None, {"profile": "gpu"}),
        (["adopt", "98", "--profile", "gpu"], "adopt", None, {"job_id": 98, "profile": "gpu"}),
        (["reject", "98"], "reject", None, {"job_id": 98}),
    ],
)
def test_each_command_writes_its_row(
    world: World, argv: list[str], kind: str, target: str | None, args: dict[str, Any]
) -> None:
    replica = replica_row(world, pilot_row(world))
    Cluster.objects.update(orphans={"98": 1.0})
    said = run(*[str(replica.pk) if word == "REPLICA" else word for word in argv])
    command = Command.objects.get()
    assert said.startswith(f"Command {command.pk} ({kind}) is queued; ")
    given = {name for name in ("pilot", "replica", "pool") if getattr(command, name) is not None}
    assert (command.kind, given) == (kind, {target} - {None})
    by = command.args.pop("by")
    assert by.endswith(" at the command line") and command.args == args


@pytest.mark.parametrize(
    ("argv", "part"),
    [
        (["pin", "sruf"], "Did you mean surf?"),
        (["why", "sruf"], "Did you mean surf?"),
        (["drain", "4712"], "Did you mean 4711?"),
        (["relaunch"], "exactly one target: pool or args.profile"),
        (["relaunch", "surf", "--profile", "gpu"], "exactly one target"),
        (["pin", "surf", "--for", "soon"], "write 30min, 2h or 1d"),
        (["pin", "surf", "--for", "9999d"], "at most a year"),
        (["adopt", "98"], "is not an unknown job: Slurm's last listing has none"),
        (["decisions", "--since", "soon"], "Invalid time"),
        (["explode"], "invalid choice: 'explode'"),
        (["why", str(uuid4())], "No model or pool is named"),
    ],
)
def test_bad_input_is_refused_with_a_next_step(world: World, argv: list[str], part: str) -> None:
    pilot_row(world)
    with pytest.raises(CommandError) as refused:
        run(*argv)
    assert part in str(refused.value)
    assert not Command.objects.exists()


def settle_after(looks: int, monkeypatch: pytest.MonkeyPatch, **ended: Any) -> None:
    """Play the loop, as far as one who waits sees it."""
    left = [looks]

    def look(_: float) -> None:
        left[0] -= 1
        if left[0] == 0:
            Command.objects.update(**ended)
        else:
            Command.objects.update(result="surf is not loaded yet.")

    monkeypatch.setattr("portal.console.management.commands.fleet.time.sleep", look)


def test_waiting_shows_what_came_of_it(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    settle_after(3, monkeypatch, state="done", result="surf works.")
    assert run("test-launch", "surf", "--wait") == "… surf is not loaded yet.\nsurf works.\n"


@pytest.mark.parametrize("state", ["failed", "refused"])
def test_what_did_not_work_is_an_error(world: World, monkeypatch: pytest.MonkeyPatch, state: str) -> None:
    settle_after(1, monkeypatch, state=state, result="surf did not start: out of memory")
    with pytest.raises(CommandError, match=f"{state}: surf did not start: out of memory"):
        run("test-launch", "surf", "--wait", "1h")


def test_waiting_ends_and_the_command_goes_on(world: World) -> None:
    with pytest.raises(CommandError, match="has not ended yet and continues in the background"):
        run("wake", "surf", "--wait", "0s")
    assert Command.objects.get().state == "pending"


def test_a_loop_that_does_not_run_is_said(world: World) -> None:
    Cluster.objects.update(ticked_at=timezone.now() - timedelta(hours=1))
    assert "Check the Celery worker and beat." in run("wake", "surf")


def test_a_table_wraps_its_last_column_only() -> None:
    rows = [("a", "one two three four five six seven eight"), ("long", "x")]
    assert table(("N", "WHY"), rows, 36).splitlines() == [
        "N     WHY", "a     one two three four five six", "      seven eight", "long  x",
    ]  # fmt: skip
