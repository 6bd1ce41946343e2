"""The pages: who sees which, what they say in words, and that their buttons write commands and nothing else."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.http import Http404
from django.test import Client, RequestFactory
from django.urls import get_resolver
from django.utils import timezone

from portal.accounts.models import User
from portal.catalog.models import Pool
from portal.dashboard import errors
from portal.fleet.models import Cluster, Command, Decision, Pilot, PilotLog, PoolState
from tests.api.world import CANARY_BODY, CANARY_RESULT, PASSWORD, World, pilot_row, replica_row, request_row
from tests.ways import way_row


@pytest.fixture
def pilot(world: World) -> Pilot:
    row = pilot_row(world)
    replica_row(world, row)
    PilotLog.objects.create(pilot=row, text="loading <weights>", at=timezone.now())
    Decision.objects.create(
        at=timezone.now(), kind="launch", pool="surf", pilot=row.id, reason="3 requests wait"
    )
    return row


def text(client: Client, path: str) -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return str(answer.content.decode())


def test_the_fleets_pages_are_for_operators(world: World, pilot: Pilot) -> None:
    paths = (
        "/fleet/",
        "/fleet/fragments/fleet",
        f"/fleet/pilots/{pilot.id}/",
        f"/fleet/pilots/{pilot.id}/fragments/pilot",
    )
    for path in paths:
        assert world.operator.browser.get(path).status_code == 200
        for who in (world.owner, world.mate, world.manager, world.outsider):
            assert who.browser.get(path).status_code == 403
        assert Client().get(path)["Location"] == f"/login/?next={path}"


def test_home_is_for_those_who_are_logged_in(world: World) -> None:
    for path in ("/", "/fragments/home"):
        assert Client().get(path)["Location"] == f"/login/?next={path}"
        assert "surf" in text(world.owner.browser, path)


def test_a_token_opens_no_page(world: World) -> None:
    assert world.owner.api.get("/").status_code == 302


def test_no_page_shows_a_payload(world: World, pilot: Pilot) -> None:
    request_row(world, "done")
    pages = [text(who.browser, path) for who in (world.owner, world.operator) for path in ("/", "/requests/")]
    pages += [text(world.operator.browser, path) for path in ("/fleet/", f"/fleet/pilots/{pilot.id}/")]
    assert not [page for page in pages if CANARY_BODY in page or CANARY_RESULT in page]


def test_fleet_says_since_when_slurm_is_silent(world: World) -> None:
    now = timezone.now()
    way_row(tried_at=now, answered_at=now - timedelta(minutes=7), error="squeue: timed out")
    Cluster.objects.update(ticked_at=now)
    page = text(world.operator.browser, "/fleet/")
    assert "Slurm does not answer." in page and "(7 min ago)" in page and "squeue: timed out" in page
    assert "The control loop runs." in page


def test_of_many_pools_those_with_something_to_tell_come_first(
    world: World, pilot: Pilot, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.dashboard.fleet.MOST_POOLS", 2)
    for name in ("a-quiet-one", "another", "broken"):
        Pool.objects.create(name=name, environment=world.pool.environment)
    PoolState.objects.create(pool_id="broken", failures=1, latched_at=timezone.now(), reason="no GPU")

    def listed(path: str) -> list[str]:
        page = text(world.operator.browser, path)
        return re.findall(r'<th scope="row"><code>([\w-]+)</code></th>', page)

    assert listed("/fleet/") == ["broken", "surf"]
    assert listed("/fleet/?find=quiet") == listed("/fleet/fragments/fleet?find=quiet") == ["a-quiet-one"]


def test_jobs_that_live_come_before_those_that_ended(world: World) -> None:
    now = timezone.now()
    for job_id, state, fields in (
        (11, "up", {}),
        (12, "ended", {"ended_at": now, "end_reason": "drained"}),
        (13, "up", {}),
    ):
        pilot_row(world, now + timedelta(seconds=job_id), job_id=job_id, state=state, **fields)
    page = text(world.operator.browser, "/fleet/")
    assert re.findall(r"<h3>\s*<a [^>]+>Job (\d+)", page) == ["13", "11", "12"]


def test_a_decision_is_told_in_words_and_with_units(world: World) -> None:
    inputs = {"idle_s": 61.2, "load_s": None, "mem_mb": 800, "queued": 0, "pool_wait_s": 0}
    Decision.objects.create(
        at=timezone.now(), kind="drain_replica", pool="surf", reason="Idle.", inputs=inputs
    )
    page = text(world.operator.browser, "/fleet/decisions/")
    assert "<td>drain replica</td>" in page
    assert "idle 61.2 s · load unknown · mem 800 MiB · queued 0 · pool wait 0 s" in page


def test_a_page_that_breaks_says_whose_fault_it_is(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("boom")

    monkeypatch.setattr("portal.dashboard.home.shown", broken)
    browser = Client(raise_request_exception=False)
    browser.force_login(world.owner.user)
    answer = browser.get("/")
    page = answer.content.decode()
    assert answer.status_code == 500 and "boom" not in page
    assert "Server error" in page and "css/berth.css" in page


def test_a_pilots_page_shows_its_log_escaped_and_its_decisions(world: World, pilot: Pilot) -> None:
    page = text(world.operator.browser, f"/fleet/pilots/{pilot.id}/")
    assert "loading &lt;weights&gt;" in page and "3 requests wait" in page and "gpu03" in page
    assert "10.1.2.3" not in page


def press(client: Client, **fields: Any) -> Any:
    return client.post("/fleet/commands/", fields)


def test_a_button_writes_a_command_and_goes_back(world: World, pilot: Pilot) -> None:
    back = f"/fleet/pilots/{pilot.id}/"
    answer = press(world.operator.browser, kind="drain", pilot=pilot.id, next=back)
    assert answer.status_code == 302 and answer["Location"] == back
    command = Command.objects.get()
    assert (command.kind, command.pilot, command.created_by) == ("drain", pilot, world.operator.user)
    pilot.refresh_from_db()
    assert pilot.state == "up"


def test_a_button_does_not_lead_to_another_site(world: World) -> None:
    assert press(world.operator.browser, kind="pause", next="https://evil.example/")["Location"] == "/fleet/"


def test_buttons_are_for_operators_who_press_them_here(world: World) -> None:
    assert press(world.owner.browser, kind="pause").status_code == 403
    assert press(Client(), kind="pause").status_code == 302
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.operator.user)
    assert press(strict, kind="pause").status_code == 403
    assert world.operator.browser.get("/fleet/commands/?kind=pause").status_code == 405
    assert not Command.objects.exists()


@pytest.mark.parametrize(
    "fields", [{"kind": "explode"}, {"kind": "drain"}, {"kind": "wake", "pilot": "no-uuid"}]
)
def test_a_bad_button_is_told_and_writes_nothing(world: World, fields: dict[str, str]) -> None:
    answer = press(world.operator.browser, **fields)
    assert answer.status_code in (302, 404)
    assert not Command.objects.exists()


def test_log_in_and_out(world: World) -> None:
    world.owner.user.set_password(PASSWORD)
    world.owner.user.save()
    client = Client()
    assert "do not match" in client.post("/login/", {"username": "owner", "password": "x"}).content.decode()
    answer = client.post("/login/", {"username": "owner", "password": PASSWORD, "next": "/fragments/home"})
    assert answer["Location"] == "/fragments/home"
    assert client.get("/logout/").status_code == 405  # a link on another site must not log anyone out
    assert client.post("/logout/")["Location"] == "/login/"
    assert client.get("/").status_code == 302


def test_pages_obey_their_own_content_security_policy(world: World, pilot: Pilot) -> None:
    for path in ("/", "/fleet/", f"/fleet/pilots/{pilot.id}/", "/login/"):
        answer = world.operator.browser.get(path)
        assert answer["Content-Security-Policy"].startswith("default-src 'self';")
        page = answer.content.decode()
        assert not re.search(r"<script(?![^>]*\bsrc=)|\sstyle=|<style|\son[a-z]+=|javascript:", page)
        assert not re.findall(r'(?:src|href)="(?!/|#)', page)


def test_every_static_file_that_pages_name_is_served(world: World) -> None:
    page = text(world.operator.browser, "/fleet/")
    paths = set(re.findall(r'(?:src|href)="(/static/[^"]+)"', page))
    assert {path.rsplit("/", 1)[-1] for path in paths} >= {"berth.css", "berth.js", "icon.svg"}
    for path in paths:
        answer: Any = world.operator.browser.get(path)
        assert answer.status_code == 200 and b"".join(answer.streaming_content), path


def test_an_unknown_page_is_a_page(world: World) -> None:
    answer = world.owner.browser.get("/nothing")
    assert answer.status_code == 404 and "no page at this address" in answer.content.decode()


@pytest.mark.django_db(transaction=True)
def test_an_error_page_leaves_no_connection_behind_on_its_thread() -> None:
    """Django makes it on one where no request ends."""
    request = RequestFactory().get("/nothing-here/")
    request.user = User.objects.create_user("eve", password=None)

    def made() -> tuple[int, bool]:
        answer = errors.not_found(request, Http404())
        return answer.status_code, "Berth is not set up yet" in answer.content.decode()

    def left() -> bool:
        return connection.connection is not None

    with ThreadPoolExecutor(1) as thread:
        assert thread.submit(made).result() == (404, True), "it asked the database"
        assert not thread.submit(left).result()
    handlers: list[object] = [get_resolver().resolve_error_handler(status) for status in (403, 404)]
    assert handlers == [errors.not_allowed, errors.not_found]
