"""Refreshes: nothing is sent when nothing changed, and what changed always is."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from portal.fleet.models import Cluster
from tests.api.world import World, request_row
from tests.ways import way_row


@pytest.mark.parametrize("path", ["/fragments/home", "/requests/fragments/list"])
def test_nothing_is_sent_when_nothing_changed(world: World, path: str) -> None:
    browser = world.owner.browser
    first = browser.get(path)
    etag = first["ETag"]
    assert first.content and "private" in first["Cache-Control"]
    again = browser.get(path, headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")


def test_a_fleet_in_which_all_is_well_is_sent_once(world: World) -> None:
    """Though Slurm answers and the loop runs all the time."""
    browser, now = world.operator.browser, timezone.now()
    Cluster.objects.create(name="main", ticked_at=now)
    way_row(tried_at=now, answered_at=now)
    etag = browser.get("/fleet/fragments/fleet")["ETag"]
    before = now - timedelta(seconds=9)
    Cluster.objects.update(ticked_at=before)
    way_row(tried_at=before, answered_at=before)
    assert browser.get("/fleet/fragments/fleet", headers={"If-None-Match": etag}).status_code == 304


def test_a_change_is_sent(world: World) -> None:
    browser = world.owner.browser
    etag = browser.get("/requests/fragments/list")["ETag"]
    row = request_row(world, "failed")
    answer = browser.get("/requests/fragments/list", headers={"If-None-Match": etag})
    assert answer.status_code == 200 and str(row.id) in answer.content.decode() and answer["ETag"] != etag


def test_who_may_not_look_learns_nothing_from_it(world: World) -> None:
    etag = world.owner.browser.get("/fragments/home")["ETag"]
    assert Client().get("/fragments/home", headers={"If-None-Match": etag}).status_code == 302
    fleet = world.operator.browser.get("/fleet/fragments/fleet")["ETag"]
    answer = world.owner.browser.get("/fleet/fragments/fleet", headers={"If-None-Match": fleet})
    assert answer.status_code == 403
