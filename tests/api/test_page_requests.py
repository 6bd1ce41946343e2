"""The pages of requests: whose each person sees, filters, the timeline's bar, why one waits, cancel, the result."""

from __future__ import annotations

import json
import re
from datetime import UTC, datetime, timedelta

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Membership
from portal.dashboard.bar import WIDTH, bar
from portal.ledger.models import Payload, RequestEvent
from portal.ledger.timeline import Facts, timeline
from tests.api.world import CANARY_BODY, CANARY_RESULT, World, pilot_row, replica_row, request_row

PEOPLE = ("owner", "mate", "manager", "outsider", "operator")
SEEN = {"owner": 200, "mate": 404, "manager": 200, "outsider": 404, "operator": 200}


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return str(answer.content.decode())


def listed(page: str) -> list[str]:
    return re.findall(r'href="/requests/([0-9a-f-]{36})/"', page)


# The list


def test_the_list_holds_ones_own_requests_newest_first(world: World) -> None:
    now = timezone.now()
    rows = [request_row(world, accepted_at=now - timedelta(minutes=i)) for i in range(3)]
    for path in ("/requests/", "/requests/fragments/list"):
        assert listed(text(world.owner.browser, path)) == [str(row.id) for row in rows]
        assert [listed(text(getattr(world, who).browser, path)) for who in PEOPLE[1:]] == [[]] * 4
        assert Client().get(path)["Location"] == f"/login/?next={path}"
        assert world.owner.api.get(path).status_code == 302, "a token opens no page"


@pytest.mark.parametrize(
    ("whose", "seen_by"),
    [("managed", {"manager": 2}), ("everybody", {"operator": 3}), ("mine", {"owner": 1})],
)
def test_managers_look_through_their_projects_and_operators_through_all(
    world: World, whose: str, seen_by: dict[str, int]
) -> None:
    request_row(world)
    request_row(world, user_id=world.mate.user.pk)
    request_row(world, user_id=world.outsider.user.pk, project_id=world.other.pk)
    for who in PEOPLE:
        page = text(getattr(world, who).browser, f"/requests/?whose={whose}")
        expected = seen_by.get(who, 0) + (1 if whose == "mine" and who in ("mate", "outsider") else 0)
        assert len(listed(page)) == expected, who
        if whose != "mine":
            assert ("whose must be one of" in page) == (who not in seen_by)


def test_a_row_of_others_names_its_user_and_project(world: World) -> None:
    request_row(world)
    page = text(world.operator.browser, "/requests/?whose=everybody")
    assert '<td data-label="User">owner</td>' in page and '<td data-label="Project">waves</td>' in page


def test_the_list_is_filtered(world: World) -> None:
    now = timezone.now()
    done = request_row(world, "done", model="turf")
    failed = request_row(world, "failed", accepted_at=now - timedelta(hours=3))
    Membership.objects.create(user=world.owner.user, project=world.other)
    elsewhere = request_row(world, project_id=world.other.pk, lane="held", holder="gw-1")
    wanted = {
        "model=turf": [done],
        "state=failed": [failed],
        "project=storms": [elsewhere],
        "project=nowhere": [],
        "lane=held": [elsewhere],
        "until=2h": [failed],
        "since=2h&state=done": [done],
    }
    for query, rows in wanted.items():
        page = text(world.owner.browser, f"/requests/?{query}")
        assert listed(page) == [str(row.id) for row in rows], query
        if not rows:
            assert "No matches" in page
        assert f'hx-get="/requests/fragments/list?{query.replace("&", "&amp;")}"' in page


@pytest.mark.parametrize(
    "query", ["state=bogus", "lane=bogus", "whose=bogus", "since=yesteryear", "before=bogus", "before=1_2"]
)
def test_a_bad_filter_is_told_and_shows_nothing(world: World, query: str) -> None:
    row = request_row(world)
    page = text(world.owner.browser, f"/requests/?{query}")
    assert 'role="alert"' in page and str(row.id) not in page and "hx-get" not in page


def test_the_list_is_paged_through_without_gaps_or_repeats(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.services.request_search.PAGE_ROWS", 3)
    now = timezone.now()  # all at the same moment: the place must not rely on the time alone
    wanted = {str(request_row(world, "done", accepted_at=now).id) for _ in range(7)}
    got: list[str] = []
    path: str | None = "/requests/?state=done"
    while path:
        page = text(world.owner.browser, path)
        got += listed(page)
        assert ("hx-get" in page) == (len(got) == 3), "only the first page changes"
        found = re.search(r'<a href="([^"]+)">Older</a>', page)
        path = found.group(1).replace("&amp;", "&") if found else None
        assert len(got) <= 7
    assert len(got) == 7 and set(got) == wanted


def test_a_rare_one_is_looked_for_a_stretch_at_a_time(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.services.request_search.MOST_LOOKED_AT", 3)
    now = timezone.now()
    rare = request_row(world, "failed", accepted_at=now - timedelta(minutes=9))
    for n in range(7):
        request_row(world, "done", accepted_at=now - timedelta(minutes=n // 2))
    path, pages = "/requests/?state=failed", 0
    while str(rare.id) not in (page := text(world.owner.browser, path)):
        assert not listed(page)
        found = re.search(r'<a href="([^"]+)">Search further back</a>', page)
        assert found, "there is more to look at"
        path, pages = found.group(1).replace("&amp;", "&"), pages + 1
    assert pages >= 1
    assert "Search further back" not in text(world.owner.browser, "/requests/"), "all of them are no search"


def test_the_list_takes_as_many_queries_for_many_rows_as_for_few(world: World) -> None:
    client, counts = world.operator.browser, []
    for n in (1, 30):
        for who in (world.owner, world.mate, world.outsider):
            for _ in range(n):
                request_row(world, user_id=who.user.pk)
        with CaptureQueriesContext(connection) as asked:
            text(client, "/requests/?whose=everybody")
        counts.append(len(asked))
    assert counts[0] == counts[1]


# One request


def test_who_sees_a_request_and_who_its_result(world: World) -> None:
    row = request_row(world, "done")
    for path in (f"/requests/{row.id}/", f"/requests/{row.id}/fragments/request"):
        got = {who: getattr(world, who).browser.get(path) for who in PEOPLE}
        # 286 tells htmx that what has ended is asked for no more.
        seen = {who: 200 if answer.status_code == 286 else answer.status_code for who, answer in got.items()}
        assert seen == SEEN
        assert [who for who, answer in got.items() if CANARY_RESULT in answer.content.decode()] == ["owner"]
        assert not [who for who, answer in got.items() if CANARY_BODY in answer.content.decode()]
        assert Client().get(path)["Location"] == f"/login/?next={path}"


def test_what_has_ended_is_asked_for_no_more(world: World) -> None:
    done, waits = request_row(world, "done"), request_row(world)
    fragment = "/requests/{}/fragments/request"
    assert world.owner.browser.get(fragment.format(done.id)).status_code == 286
    assert world.owner.browser.get(fragment.format(waits.id)).status_code == 200
    assert "hx-get" not in text(world.owner.browser, f"/requests/{done.id}/")
    assert "hx-get" in text(world.owner.browser, f"/requests/{waits.id}/")


def test_an_answer_is_shown_as_its_words_and_escaped(world: World) -> None:
    row = request_row(world, "done")
    said = {"choices": [{"message": {"role": "assistant", "content": "<b>wet</b>"}}]}
    Payload.objects.update(result=json.dumps(said).encode())
    page = text(world.owner.browser, f"/requests/{row.id}/")
    assert (
        '<pre class="log answer" tabindex="0">&lt;b&gt;wet&lt;/b&gt;</pre>' in page and "<b>wet" not in page
    )
    Payload.objects.update(result=json.dumps({"data": ["x" * 30_000]}).encode())
    page = text(world.owner.browser, f"/requests/{row.id}/")
    assert f'<a href="/api/v1/requests/{row.id}">' in page and "x" * 20_001 not in page
    Payload.objects.all().delete()
    assert "No result is stored" in text(world.owner.browser, f"/requests/{row.id}/")


def test_a_request_that_waits_says_why_and_which_place_it_has(world: World) -> None:
    request_row(world, order_key=1.0)
    row = request_row(world, order_key=2.0)
    page = text(world.owner.browser, f"/requests/{row.id}/")
    assert "Why it is waiting" in page and '<dt>Queue position</dt><dd class="num">2</dd>' in page
    assert "surf is not loaded" in page and "Estimated start in" in page


def test_a_failed_request_says_why_and_what_happened_to_it(world: World) -> None:
    row = request_row(world, "failed", error_code="poison", error_text="The engine died 3 times.", attempt=3)
    RequestEvent.objects.create(
        request_id=row.id, at=timezone.now(), kind="requeued", attempt=2, detail="its job ended"
    )
    left = request_row(world, "cancelled", error_code="client_left")
    RequestEvent.objects.create(
        request_id=left.id, at=timezone.now(), kind="cancelled", attempt=1, detail="client_left"
    )
    page = text(world.owner.browser, f"/requests/{row.id}/")
    assert "The engine died 3 times." in page and "requeued: its job ended" in page
    assert "Why it is waiting" not in page
    assert "cancelled: the client disconnected" in text(world.owner.browser, f"/requests/{left.id}/")


def test_the_bar_names_the_parts_of_a_cold_start_and_the_table_every_step(world: World) -> None:
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
    page = text(world.owner.browser, f"/requests/{row.id}/")
    assert 'aria-label="Queue 4.0 s, Slurm 9.0 s, Loading the model 30 s, Engine 2.0 s"' in page
    for step in ("Slurm job submitted", "Model ready", "First token", "Ended"):
        assert step in page
    assert "4711 on gpu03" in page and " style=" not in page


NOON = datetime(2026, 11, 21, 12, tzinfo=UTC)


def at(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


@pytest.mark.parametrize(
    ("facts", "now_s", "seconds"),
    [
        (Facts(NOON), 8, {"queue": 8}),
        (Facts(NOON, job_submitted_at=at(2)), 8, {"queue": 2, "slurm": 6}),
        (
            Facts(NOON, job_submitted_at=at(2), job_started_at=at(5), engine_started_at=at(6)),
            8,
            {"queue": 3, "slurm": 3, "load": 2},
        ),
        (Facts(NOON, granted_at=at(1)), 8, {"queue": 1, "engine": 7}),
        (Facts(NOON, granted_at=at(1), ended_at=at(3)), 8, {"queue": 1, "engine": 2}),
        (Facts(NOON, ended_at=at(3)), 8, {"queue": 3}),
        (Facts(NOON, ended_at=NOON), 8, {}),
        (Facts(NOON, granted_at=at(1), slurm_s=0.0001, load_s=0.0), 3601, {"queue": 1, "engine": 3600}),
    ],
)
def test_the_bar_fills_its_width_and_goes_to_now(
    facts: Facts, now_s: float, seconds: dict[str, float]
) -> None:
    stretches = bar(timeline(facts), at(now_s))
    assert {part.name: part.seconds for part in stretches} == seconds
    if stretches:
        assert stretches[0].x == 0 and stretches[-1].x + stretches[-1].width == pytest.approx(WIDTH, abs=0.2)
        assert all(part.width >= 3 for part in stretches), "what took any time is seen"


# Cancel


def test_who_may_cancel(world: World, sent: list[tuple[str, str]]) -> None:
    for who in PEOPLE:
        row = request_row(world)
        path = f"/requests/{row.id}/cancel"
        answer = getattr(world, who).browser.post(path)
        assert answer.status_code == (302 if SEEN[who] == 200 else 404)
        row.refresh_from_db()
        assert row.state == ("cancelled" if SEEN[who] == 200 else "queued")
        assert getattr(world, who).browser.get(path).status_code == 405
    assert Client().post(path)["Location"] == f"/login/?next={path}"


def test_a_cancel_goes_back_to_the_request_and_what_has_ended_stays(
    world: World, sent: list[tuple[str, str]]
) -> None:
    row, client = request_row(world), world.owner.browser
    assert f'action="/requests/{row.id}/cancel"' in text(client, f"/requests/{row.id}/")
    assert "is cancelled" in client.post(f"/requests/{row.id}/cancel", follow=True).content.decode()
    page = client.post(f"/requests/{row.id}/cancel", follow=True).content.decode()
    assert "has already ended: it is cancelled" in page and 'action="/requests' not in page
    assert RequestEvent.objects.get().detail == "cancelled by its owner"


def test_a_cancel_needs_the_csrf_token(world: World) -> None:
    row = request_row(world)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    assert strict.post(f"/requests/{row.id}/cancel").status_code == 403
    row.refresh_from_db()
    assert row.state == "queued"
