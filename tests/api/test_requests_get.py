"""GET /api/v1/requests and /api/v1/requests/{id}: who sees what of a request."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.utils import timezone

from portal.accounts.issue import issue_token
from portal.accounts.models import Membership
from portal.ledger.models import Payload
from tests.api.world import CANARY_BODY, CANARY_RESULT, ApiClient, World, pilot_row, replica_row, request_row

SEEN = {"owner": 200, "mate": 404, "manager": 200, "outsider": 404, "operator": 200, "anonymous": 401}


def test_who_sees_a_request_and_who_its_result(world: World) -> None:
    row = request_row(world, "done")
    got = {name: api.send("GET", f"requests/{row.id}") for name, api in world.everyone().items()}
    assert {name: answer.status_code for name, answer in got.items()} == SEEN
    assert [name for name, answer in got.items() if CANARY_RESULT in answer.content.decode()] == ["owner"]
    assert got["owner"].json()["result"] == {"choices": [{"text": CANARY_RESULT}]}
    assert not [name for name, answer in got.items() if CANARY_BODY in answer.content.decode()]


def test_the_same_holds_at_the_browser(world: World) -> None:
    row = request_row(world, "done")
    people = ("owner", "mate", "manager", "outsider", "operator")
    got = {name: getattr(world, name).browser.send("GET", f"requests/{row.id}") for name in people}
    assert {name: answer.status_code for name, answer in got.items()} | {"anonymous": 401} == SEEN
    assert [name for name, answer in got.items() if CANARY_RESULT in answer.content.decode()] == ["owner"]


def test_a_request_that_is_not_there_looks_like_one_that_is_not_yours(world: World) -> None:
    row = request_row(world)
    absent = world.outsider.api.send("GET", f"requests/{uuid4()}").json()["error"]
    others = world.outsider.api.send("GET", f"requests/{row.id}").json()["error"]
    assert {**absent, "request_id": ""} == {**others, "request_id": ""}
    assert absent["code"] == "request_not_found"


def test_a_token_of_another_project_of_the_owner_does_not_see_it(world: World) -> None:
    row = request_row(world, "done")
    Membership.objects.create(user=world.owner.user, project=world.other)
    _, minted = issue_token(world.owner.user, world.other, "n", ["read"])
    assert ApiClient(minted.text).send("GET", f"requests/{row.id}").status_code == 404
    assert ApiClient(minted.text).send("GET", "requests").json()["results"] == []


def test_an_operators_token_without_the_fleet_scope_sees_only_its_own(world: World) -> None:
    row = request_row(world, "done")
    _, minted = issue_token(world.operator.user, world.other, "n", ["read"])
    assert ApiClient(minted.text).send("GET", f"requests/{row.id}").status_code == 404


def test_a_result_that_is_no_longer_kept_is_null(world: World) -> None:
    row = request_row(world, "done")
    Payload.objects.all().delete()
    assert world.owner.api.send("GET", f"requests/{row.id}").json()["result"] is None


def test_a_result_that_is_no_json_comes_in_base64(world: World) -> None:
    row = request_row(world, "done")
    Payload.objects.update(result=b"\xff\x00", result_type="application/octet-stream")
    told = world.owner.api.send("GET", f"requests/{row.id}").json()["result"]
    assert told == {"content_type": "application/octet-stream", "base64": "/wA="}


def test_position_counts_those_ahead_held_ones_first(world: World) -> None:
    now = timezone.now().timestamp()
    late, early = (request_row(world, order_key=now + delta) for delta in (10, 5))
    request_row(world, order_key=now + 1, pool="other")
    held = request_row(world, lane="held", holder="gw-1", order_key=now + 99)
    request_row(world, "running", order_key=now)
    places = {
        r.id: world.owner.api.send("GET", f"requests/{r.id}").json()["position"] for r in (held, early, late)
    }
    assert list(places.values()) == [1, 2, 3]


def test_a_failed_request_says_why(world: World) -> None:
    row = request_row(world, "failed", error_code="poison", error_text="The engine died 3 times.")
    told = world.owner.api.send("GET", f"requests/{row.id}").json()
    assert told["error"] == {"code": "poison", "message": "The engine died 3 times."}
    assert told["position"] is None and told["result"] is None


def test_the_timeline_of_a_cold_start_names_every_step_and_adds_up(world: World) -> None:
    now = timezone.now()
    replica = replica_row(world, pilot_row(world, now), now)
    row = request_row(
        world,
        "done",
        replica=replica.id,
        accepted_at=now - timedelta(seconds=50),
        granted_at=now - timedelta(seconds=7),
        first_token_at=now - timedelta(seconds=6),
        ended_at=now - timedelta(seconds=5),
    )
    told = world.owner.api.send("GET", f"requests/{row.id}").json()["timeline"]
    steps = [
        "accepted", "job_submitted", "job_running", "registered", "engine_started", "engine_ready", "granted",
        "first_token", "done",
    ]  # fmt: skip
    times = [datetime.fromisoformat(told[step]) for step in steps]
    assert times == sorted(times)
    assert told["pilot"] == {"job_id": 4711, "node": "gpu03"}
    assert (told["slurm_s"], told["load_s"], told["queue_s"], told["engine_s"]) == (9.0, 30.0, 4.0, 2.0)


def test_the_split_that_its_row_names_stands_though_the_replica_was_started_anew(world: World) -> None:
    now = timezone.now()
    replica = replica_row(world, pilot_row(world, now), now, started_at=now, hot_at=now)
    row = request_row(
        world, "done", replica=replica.id, accepted_at=now - timedelta(seconds=50), granted_at=now, slurm_s=9.0,
        load_s=30.0,
    )  # fmt: skip
    told = world.owner.api.send("GET", f"requests/{row.id}").json()["timeline"]
    assert (told["slurm_s"], told["load_s"], told["queue_s"]) == (9.0, 30.0, 11.0)


def test_what_served_a_request_is_told_alone_and_in_the_list(world: World) -> None:
    served = {"revision": "weights-1", "engine_version": "0.32", "gpu_type": "a100"}
    row = request_row(world, "done", **served)
    alone = world.owner.api.send("GET", f"requests/{row.id}").json()
    (listed,) = world.owner.api.send("GET", "requests").json()["results"]
    for told in (alone, listed):
        assert (told["model_revision"], told["engine_version"], told["gpu_type"]) == tuple(served.values())


def test_a_request_that_waits_shows_the_job_that_is_on_its_way(world: World) -> None:
    row = request_row(world)
    empty = world.owner.api.send("GET", f"requests/{row.id}").json()["timeline"]
    assert empty["pilot"] is None and empty["job_submitted"] is None
    replica_row(world, pilot_row(world, node="", job_id=12), state="wanted", hot_at=None, started_at=None)
    told = world.owner.api.send("GET", f"requests/{row.id}").json()["timeline"]
    assert told["pilot"] == {"job_id": 12, "node": ""} and told["job_submitted"] and told["granted"] is None


def test_the_list_holds_ones_own_requests_newest_first(world: World) -> None:
    now = timezone.now()
    rows = [request_row(world, accepted_at=now - timedelta(minutes=i)) for i in range(3)]
    request_row(world, user_id=world.mate.user.pk)
    got = world.owner.api.send("GET", "requests").json()
    assert [r["id"] for r in got["results"]] == [str(row.id) for row in rows]
    assert CANARY_BODY not in str(got)
    assert world.operator.api.send("GET", "requests").json()["results"] == []
    assert ApiClient().send("GET", "requests").status_code == 401


def test_the_list_is_walked_by_cursor_without_gaps_or_repeats(world: World) -> None:
    now = timezone.now()  # all at the same moment: the cursor must not rely on the time alone
    wanted = {str(request_row(world, accepted_at=now).id) for _ in range(7)}
    got: list[str] = []
    path: str | None = "/api/v1/requests?page_size=3"
    while path:
        page = world.owner.api.get(path).json()
        got += [row["id"] for row in page["results"]]
        path = page["next"]
        assert len(got) <= 7
    assert len(got) == 7 and set(got) == wanted


@pytest.mark.parametrize(("query", "states"), [("state=done", ["done"]), ("state=queued", ["queued"])])
def test_the_list_is_filtered_by_state(world: World, query: str, states: list[str]) -> None:
    for state in ("queued", "done", "failed"):
        request_row(world, state)
    got = world.owner.api.get(f"/api/v1/requests?{query}").json()["results"]
    assert [row["state"] for row in got] == states


def test_the_list_is_filtered_by_model(world: World) -> None:
    request_row(world)
    row = request_row(world, model="turf")
    got = world.owner.api.get("/api/v1/requests?model=turf").json()["results"]
    assert [r["id"] for r in got] == [str(row.id)]


@pytest.mark.parametrize("query", ["state=bogus", "cursor=bogus"])
def test_a_bad_filter_is_an_error_in_the_envelope(world: World, query: str) -> None:
    answer: Any = world.owner.api.get(f"/api/v1/requests?{query}")
    assert answer.status_code in (400, 404) and answer.json()["error"]["code"]
