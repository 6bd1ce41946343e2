"""The page of usage: whose it shows, over time, by model and project, beside the limits; and as CSV."""

from __future__ import annotations

import csv
import io
import re
import uuid
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import ApiToken, Membership, Quota, User
from portal.admission import consumption, quotas, redis_calls
from portal.admission.subjects import Subjects
from portal.dashboard.charts import COLOURS
from portal.db.transaction import moving
from portal.ledger.models import Request
from portal.redis.keys import LIMIT
from scheduler.maintenance.usage import fold
from tests.api.world import World, pilot_row, replica_row, request_row


def text(client: Client, path: str = "/usage/") -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return str(answer.content.decode())


def facts(page: str) -> dict[str, str]:
    return dict(re.findall(r'<dt>([^<]+)</dt><dd class="num">([^<]+)</dd>', page))


def keys(page: str) -> list[tuple[str, str]]:
    """Return names and sums of all charts."""
    return re.findall(r"</svg>\s+([^<]+) <b[^>]*>([^<]+)</b>", page)


def ended(world: World, ago: timedelta = timedelta(0), state: str = "done", **fields: Any) -> Request:
    at = timezone.now() - ago
    times = {"accepted_at": at, "granted_at": at - timedelta(seconds=30), "ended_at": at}
    return request_row(world, state, **({"prompt_tokens": 5, "completion_tokens": 7} | times | fields))


def rows(client: Client, query: str = "") -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text(client, f"/usage/csv{query}"))))


def test_it_shows_what_ones_own_requests_used(world: World) -> None:
    replica = replica_row(world, pilot_row(world), gpu_indices=[0, 1])
    ended(world, replica=replica.pk)
    ended(world, state="failed", prompt_tokens=None, completion_tokens=None, replica=None, holder=None)
    request_row(world, "queued")
    ended(world, user_id=world.mate.user.pk)
    for path in ("/usage/", "/usage/fragments/usage"):
        assert facts(text(world.owner.browser, path)) == {
            "Requests": "2", "Failed": "1", "Tokens (input → output)": "5 → 7", "GPU-seconds": "60",
        }  # fmt: skip
        assert facts(text(world.outsider.browser, path))["Requests"] == "0"
        assert Client().get(path)["Location"] == f"/login/?next={path}"


def test_less_than_a_gpu_second_is_not_nothing(world: World) -> None:
    replica, now = replica_row(world, pilot_row(world), gpu_indices=[0]), timezone.now()
    ended(world, replica=replica.pk, granted_at=now - timedelta(milliseconds=400), ended_at=now)
    assert facts(text(world.owner.browser, "/usage/"))["GPU-seconds"] == "0.4"


def test_a_manager_sees_the_projects_and_nobody_else_does(world: World) -> None:
    ended(world)
    ended(world, user_id=world.mate.user.pk)
    ended(world, project_id=world.other.pk)
    query = "/usage/?whose=managed"
    found = {
        who: facts(text(getattr(world, who).browser, query))["Requests"]
        for who in ("owner", "mate", "manager", "outsider", "operator")
    }
    assert found == {"owner": "2", "mate": "1", "manager": "2", "outsider": "0", "operator": "0"}


def test_operators_see_everybodys_by_model_project_and_person(world: World) -> None:
    ended(world)
    ended(world, user_id=world.mate.user.pk, model="turf")
    ended(world, project_id=world.other.pk, user_id=world.outsider.user.pk)
    fold()
    ended(world, project_id=world.other.pk, user_id=world.outsider.user.pk, state="failed")
    query = "?whose=everybody&by="
    for path in ("/usage/", "/usage/fragments/usage"):
        page = text(world.operator.browser, f"{path}{query}user")
        assert facts(page)["Requests"] == "4" and facts(page)["Failed"] == "1"
        assert sorted(keys(page)[:3]) == [("mate", "1"), ("outsider", "2"), ("owner", "1")]
    page = text(world.operator.browser, f"/usage/{query}project")
    assert sorted(keys(page)[:2]) == [("storms", "2"), ("waves", "2")]
    assert keys(text(world.operator.browser, f"/usage/{query}model"))[:2] == [("surf", "3"), ("turf", "1")]
    found = rows(world.operator.browser, f"{query}user")
    assert {row["person"]: row["requests"] for row in found} == {"outsider": "2", "mate": "1", "owner": "1"}
    for who in (world.owner, world.manager):
        assert "everybody" not in text(who.browser)
        assert facts(text(who.browser, f"/usage/{query}user"))["Requests"] == (
            "1" if who is world.owner else "0"
        )


def test_of_many_the_first_have_a_colour_and_the_others_share_one(world: World) -> None:
    """And nobody is left out of the sum or of the file."""
    for n in range(COLOURS + 2):
        for _ in range(2 if n else 1):
            ended(world, model=f"m{n}")
    page = text(world.operator.browser, "/usage/?whose=everybody&by=model")
    found = keys(page)[: COLOURS + 1]
    assert found == [*((f"m{n}", "2") for n in range(1, COLOURS + 1)), ("others", "3")]
    assert facts(page)["Requests"] == "15"
    assert len(rows(world.operator.browser, "?whose=everybody&by=model")) == COLOURS + 2


def test_everybodys_page_takes_as_many_queries_however_many_people_there_are(world: World) -> None:
    counts = []
    for n in (1, 12):
        for _ in range(n):
            person = User.objects.create(username=f"person-{User.objects.count()}")
            ended(world, user_id=person.pk, model=person.username)
        with CaptureQueriesContext(connection) as asked:
            text(world.operator.browser, "/usage/?whose=everybody&by=user")
        counts.append(len(asked))
    assert counts[0] == counts[1]


@pytest.mark.parametrize(("span", "bars", "requests"), [("24h", 24, "1"), ("7d", 7, "2"), ("30d", 30, "3")])
def test_the_time_that_is_shown(world: World, span: str, bars: int, requests: str) -> None:
    for days in (0, 3, 20, 40):
        ended(world, timedelta(days=days))
    page = text(world.owner.browser, f"/usage/?span={span}")
    assert facts(page)["Requests"] == requests
    assert page.count('<th scope="row" class="num">') == 3 * bars, "each chart has its table"


def test_it_is_split_by_model_or_project(world: World) -> None:
    Membership.objects.create(user=world.owner.user, project=world.other)
    ended(world)
    ended(world, model="turf", project_id=world.other.pk)
    for by, names in (("model", {"surf", "turf"}), ("project", {"waves", "storms"})):
        page = text(world.owner.browser, f"/usage/?by={by}")
        assert set(re.findall(r"</svg>\s+([\w-]+) <b", page)) == names


def test_of_many_models_the_least_used_share_a_colour(world: World) -> None:
    for n in range(8):
        for _ in range(1 if n > 5 else 2):
            ended(world, model=f"model-{n}")
    page = text(world.owner.browser)
    keys = re.findall(
        r'<rect class="(\w+)" width="10" height="10"/></svg>\s+([\w-]+) <b class="num">(\w+)', page
    )
    assert keys[6] == ("rest", "others", "2")
    assert len(keys) == 3 * 7


def test_the_csv_holds_the_same_rows(world: World) -> None:
    ended(world)
    ended(world)
    ended(world, timedelta(days=2), model="turf")
    found = rows(world.owner.browser, "?span=7d")
    assert [(row["model"], row["project"], row["requests"], row["prompt_tokens"]) for row in found] == [
        ("turf", "waves", "1", "5"),
        ("surf", "waves", "2", "10"),
    ]
    assert found[1]["utc"] == f"{timezone.now():%Y-%m-%dT00:00Z}"
    assert rows(world.mate.browser, "?span=7d") == []
    assert Client().get("/usage/csv")["Location"] == "/login/?next=/usage/csv"


def test_what_it_does_not_know_is_its_usual_page(world: World) -> None:
    ended(world)
    page = text(world.owner.browser, "/usage/?span=1y&by=colour&whose=everybody")
    assert facts(page)["Requests"] == "1"


def test_limits_that_apply_and_what_is_taken(world: World, redis: Any) -> None:
    redis_calls._redis.cache_clear()
    token = ApiToken.objects.get(user=world.owner.user)
    Quota.objects.create(level="token", token=token, requests_per_min=10)
    Quota.objects.create(level="user", user=world.owner.user, tokens_per_min=1000)
    Quota.objects.create(level="project", project=world.project, concurrent=4)
    Quota.objects.create(level="user", user=world.mate.user, requests_per_min=77)
    Quota.objects.create(level="project", project=world.other, requests_per_min=78)
    subjects = Subjects(token.pk, world.owner.user.pk, world.project.pk, "surf")
    with moving() as cur:
        assert quotas.take(quotas.concerning(cur, subjects), uuid.uuid4(), 250)
    key = LIMIT.of("project", world.project.pk, "concurrent")
    redis.zadd(key, {"gone": 1.0, "here": timezone.now().timestamp() + 20})
    page = text(world.owner.browser)
    cells = re.findall(
        r'<th scope="row">([^<]+)</th>\s*<td>([^<]+)</td>\s*<td class="num" data-label="Maximum">(\d+)</td>\s*'
        r'<td class="num" data-label="In use">\s*(\d+)\s*<progress', page,
    )  # fmt: skip
    ((*_, consumption),) = [cell for cell in cells if cell[0] == "your account"]
    assert 100 <= int(consumption) <= 250, "it refills while one looks"
    assert cells == [
        ("token “test”", "requests per minute", "10", "1"),
        ("your account", "tokens per minute", "1000", consumption),
        ("project waves, all members", "concurrent requests", "4", "1"),
    ]


def test_without_redis_the_limits_are_there_and_what_is_taken_is_not_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any) -> Any:
        raise OSError("away")

    Quota.objects.create(level="user", user=world.owner.user, tokens_per_min=1000)
    monkeypatch.setattr(consumption, "numbers", away)
    assert "not known" in text(world.owner.browser)


def test_the_number_of_queries_does_not_grow(world: World) -> None:
    counts = []
    for n in (1, 8):
        for i in range(n):
            ended(world, model=f"model-{n}-{i}")
        with CaptureQueriesContext(connection) as asked:
            text(world.owner.browser)
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_nothing_is_sent_when_nothing_changed(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(world)
    browser, now = world.owner.browser, timezone.now()
    monkeypatch.setattr(timezone, "now", lambda: now)  # with an hour that begins, the charts do, too
    first = browser.get("/usage/fragments/usage")
    assert browser.get("/usage/fragments/usage", headers={"If-None-Match": first["ETag"]}).status_code == 304
