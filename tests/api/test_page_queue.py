"""The page Queue: for operators, by model and project, with the lane, the oldest wait and why rows are parked."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
import redis as redis_library
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Quota
from portal.admission import quotas
from portal.dashboard import queue
from portal.ledger import lines
from portal.redis import keys
from tests.api.world import BODY, CANARY_BODY, CHAT, World, request_row

PATHS = ("/queue/", "/queue/fragments/queue")


def words(world: World, query: str = "") -> str:
    """Return what is read on the page."""
    answer = world.operator.browser.get(f"/queue/{query}")
    assert answer.status_code == 200
    return " ".join(re.sub(r"<[^>]+>", " ", answer.content.decode()).split())


@pytest.mark.parametrize("path", PATHS)
def test_it_is_for_operators(world: World, path: str) -> None:
    assert world.operator.browser.get(path).status_code == 200
    for who in (world.owner, world.mate, world.manager, world.outsider):
        assert who.browser.get(path).status_code == 403


def test_an_empty_queue_is_said_to_be_empty(world: World) -> None:
    request_row(world, "done")
    assert "No requests are queued or running." in words(world)


def test_it_counts_by_project_and_lane_and_says_why_the_model_does_not_run(world: World) -> None:
    now = timezone.now()
    request_row(world, lane="held", holder="g1")
    for n in range(2):
        request_row(world, accepted_at=now - timedelta(minutes=5 * n))
    request_row(world, "running")
    request_row(world, project_id=world.other.pk, user_id=world.outsider.user.pk)
    page = words(world)
    assert "Queued 4" in page and "Running 1" in page
    assert "surf ○ Not loaded" in page and "the first request starts it" in page
    assert "waves 1 2 – 1 5 min –" in page
    assert page.index("waves 1 2") < page.index("storms – 1"), "the longest wait first"
    assert CANARY_BODY not in page


def test_what_is_parked_says_which_quota_and_when(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    quota = Quota.objects.create(level="project", project=world.project, requests_per_min=2)
    ask = {"model": "surf", "api": CHAT, "body": BODY}
    for _ in range(4):
        world.owner.api.send("POST", "requests", ask)
    assert re.search(
        r"2 : over the limit of 2 requests per minute of its project; it resumes in (30|2\d) s", words(world)
    )
    redis.delete(keys.LIMIT.of("project", world.project.pk, "requests"))
    assert "; it resumes now" in words(world)
    quota.delete()
    assert "no quota applies any more" in words(world)


def test_without_redis_it_is_said_that_nobody_knows(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    Quota.objects.create(level="project", project=world.project, requests_per_min=2)
    request_row(world, "parked")

    def silent(keys: Any) -> Any:
        raise redis_library.ConnectionError("refused")

    monkeypatch.setattr(quotas, "numbers", silent)
    assert "Redis does not answer" in words(world)


def test_a_model_that_left_the_catalog_and_a_project_that_is_gone(world: World) -> None:
    request_row(world, model="old", pool="old", project_id=999)
    assert "not in the catalog any more" in words(world) and "(deleted) – 1" in words(world)


def test_as_many_queries_for_many_lines(world: World) -> None:
    def queries() -> int:
        with CaptureQueriesContext(
            connection,
        ) as seen:
            world_operator.get("/queue/fragments/queue")
        return len(seen)

    world_operator = world.operator.browser
    Quota.objects.create(level="project", project=world.project, requests_per_min=2)
    request_row(world, "parked")
    few = queries()
    for n in range(8):
        request_row(world, "parked", model=f"m{n}")
        request_row(world, project_id=world.other.pk, model=f"m{n}")
    assert queries() == few


def test_more_than_are_counted_is_said(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lines, "MOST_COUNTED", 2)
    for _ in range(3):
        request_row(world)
    page = words(world)
    assert "Queued 3" in page and "One state has more than 2 requests" in page


def test_lines_that_have_no_room_are_found_by_model_or_project(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(queue, "MOST_LINES", 1)
    request_row(world, accepted_at=timezone.now() - timedelta(hours=1))
    request_row(world, model="whale", pool="whale", project_id=world.other.pk)
    page = words(world)
    assert "surf" in page and "whale" not in page and "1 more rows" in page
    for name in ("WHA", world.other.slug):
        found = words(world, f"?find={name}")
        assert "whale" in found and "1 more" not in found, name
    refresh = world.operator.browser.get("/queue/fragments/queue?find=whale").content.decode()
    assert "whale" in refresh and "surf" not in refresh
    assert "No matches" in words(world, "?find=nobody")
