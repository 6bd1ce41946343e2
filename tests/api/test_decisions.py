"""GET /api/v1/decisions and the page: the story of the fleet, by model, pilot, kind and time."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from portal.fleet.models import Decision, Pilot
from tests.api.world import World, pilot_row


@pytest.fixture
def pilot(world: World) -> Pilot:
    """Make one decision about a pilot, one of yesterday, one of a pool that is gone."""
    now, pilot = timezone.now(), pilot_row(world)
    rows = [
        (now - timedelta(days=1), "launch", "surf", None, "3 requests waiting for surf."),
        (now - timedelta(hours=1), "drain_pilot", "", pilot.id, "It has hosted no model for 60 s."),
        (now, "hold", "gone", None, "Nothing holds it back."),
    ]
    for at, kind, pool, of, reason in rows:
        Decision.objects.create(at=at, kind=kind, pool=pool, pilot=of, reason=reason, inputs={"queued": 3})
    return pilot


@pytest.mark.parametrize(
    ("query", "kinds"),
    [
        ("", ["hold", "drain_pilot", "launch"]),
        ("model=surf", ["launch"]),
        ("pool=surf", ["launch"]),
        ("model=gone", ["hold"]),
        ("pilot=4711", ["drain_pilot"]),
        ("kind=launch", ["launch"]),
        ("since=2h", ["hold", "drain_pilot"]),
        ("until=2h", ["launch"]),
        ("since=2h&until=30min", ["drain_pilot"]),
        ("since=2020-01-01&until=2020-01-02T10:00", []),
        ("since=2020-01-01T00:00Z&kind=hold", ["hold"]),
    ],
)
def test_they_are_found_by_model_pilot_kind_and_time(
    world: World, pilot: Pilot, query: str, kinds: list[str]
) -> None:
    told = world.operator.api.get(f"/api/v1/decisions?{query}").json()["results"]
    assert [row["kind"] for row in told] == kinds
    page = world.operator.browser.get(
        f"/fleet/decisions/?{query.replace('pool=', 'model=')}"
    ).content.decode()
    for row in Decision.objects.all():
        assert (row.reason in page) == (row.kind in kinds)


def test_a_pilot_is_called_by_its_job(world: World, pilot: Pilot) -> None:
    link = f'<a href="/fleet/pilots/{pilot.id}/">'
    for page in ("/fleet/", "/fleet/decisions/", f"/fleet/pilots/{pilot.id}/"):
        assert f"{link}job 4711</a>" in world.operator.browser.get(page).content.decode(), page
    pilot.delete()  # as the history of ended ones is cut
    assert f"{link}pilot " in world.operator.browser.get("/fleet/decisions/").content.decode()


@pytest.mark.parametrize(
    ("query", "param", "part"),
    [
        ("model=sruf", "model", "Did you mean surf?"),
        ("pilot=4712", "pilot", "Did you mean 4711?"),
        ("kind=explode", "kind", "kind must be one of: launch, "),
        ("since=soon", "since", "Invalid time"),
        ("until=2026-13-45", "until", "Invalid time"),
    ],
)
def test_a_bad_filter_is_refused_with_what_would_be_right(
    world: World, pilot: Pilot, query: str, param: str, part: str
) -> None:
    answer = world.operator.api.get(f"/api/v1/decisions?{query}")
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param and part in error["message"]
    page = world.operator.browser.get(f"/fleet/decisions/?{query}")
    assert page.status_code == 200 and "notice bad" in page.content.decode()


def test_the_page_goes_on_where_it_ended(world: World) -> None:
    now = timezone.now()
    Decision.objects.bulk_create(Decision(at=now, kind="hold", reason=f"Reason {n}.") for n in range(150))
    first = world.operator.browser.get("/fleet/decisions/?kind=hold").content.decode()
    assert "Reason 149." in first and "Reason 50." in first and "Reason 49." not in first
    (last,) = Decision.objects.order_by("-id")[99:100]
    assert f"kind=hold&amp;before={last.pk}" in first
    second = world.operator.browser.get(f"/fleet/decisions/?kind=hold&before={last.pk}").content.decode()
    assert "Reason 49." in second and "Reason 50." not in second and "Older" not in second


def test_only_operators_see_the_page(world: World, pilot: Pilot) -> None:
    assert world.owner.browser.get("/fleet/decisions/").status_code == 403


def test_the_newest_page_is_asked_for_again_and_others_stay(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.dashboard.fleet.MOST_DECISIONS", 2)
    browser = world.operator.browser

    def decide(n: int) -> int:
        row = Decision.objects.create(at=timezone.now(), kind="launch", pool="surf", reason=f"Reason {n}.")
        return int(row.pk)

    keys = [decide(n) for n in range(3)]
    page = browser.get("/fleet/decisions/?model=surf").content.decode()
    assert 'hx-get="/fleet/fragments/decisions?model=surf" hx-trigger="every 3s" data-polled' in page
    decide(3)
    fragment = browser.get("/fleet/fragments/decisions?model=surf").content.decode()
    assert "Reason 3." in fragment and "Reason 1." not in fragment
    assert f"before={keys[2]}" in fragment, "what was pushed off the page is found behind it"
    older = browser.get(f"/fleet/decisions/?before={keys[2]}").content.decode()
    assert "Reason 1." in older and "hx-get" not in older and ">Newest</a>" in older
    assert "No matches." in browser.get("/fleet/decisions/?model=turf").content.decode()
