"""The Tokens page: a text shown once, its owner only, rules at their fields, and an end that holds."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from portal.accounts import tokens
from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, Membership, Project
from portal.redis import keys
from tests.api.world import ApiClient, Person, World

WISH = {"name": "notebook", "project": "waves", "scopes": ["inference", "read"], "days": "90"}


def make(person: Person, **changed: Any) -> Any:
    return person.browser.post("/tokens/", WISH | changed)


def shown(answer: Any) -> str:
    """Return the token's text on a page, "" without one."""
    found = re.search(r"berth_[0-9A-Za-z]{12}_[0-9A-Za-z]{46}", answer.content.decode())
    return found.group() if found else ""


def row(world: World) -> ApiToken:
    return ApiToken.objects.get(user=world.owner.user, name="notebook")


def test_the_text_is_shown_once_and_kept_nowhere(world: World) -> None:
    browser = world.owner.browser
    answer = browser.post("/tokens/", WISH)
    text = shown(answer)
    assert answer.status_code == 200 and tokens.digest(text) == row(world).digest
    assert "no-store" in answer["Cache-Control"]
    later = browser.get("/tokens/")
    assert not shown(later) and "notebook" in later.content.decode()
    assert "no-store" in later["Cache-Control"]
    assert not [session for session in Session.objects.all() if text in str(session.get_decoded())]


def test_a_new_token_works_and_its_use_is_shown(world: World) -> None:
    text = shown(make(world.owner))
    assert "never" in world.owner.browser.get("/tokens/").content.decode()
    assert ApiClient(text).send("GET", "models").status_code == 200
    row_ = row(world)
    assert row_.last_used_at is not None
    assert (row_.project, row_.scopes) == (world.project, ["inference", "read"])
    assert timedelta(days=89.9) < row_.expires_at - timezone.now() < timedelta(days=90.1)


def test_the_form_proposes_90_days_and_no_fleet(world: World) -> None:
    page = world.owner.browser.get("/tokens/").content.decode()
    assert re.search(r'name="days" value="90"', page)
    assert (
        'value="fleet"' not in page
        and 'value="fleet"' in world.operator.browser.get("/tokens/").content.decode()
    )


def test_sent_again_the_form_makes_no_second_token(world: World) -> None:
    browser = world.owner.browser
    browser.post("/tokens/", WISH)
    again = browser.post("/tokens/", WISH)
    assert again.status_code == 422 and not shown(again)
    assert "You already have a token called “notebook”" in again.content.decode()
    assert ApiToken.objects.filter(name="notebook").count() == 1


@pytest.mark.parametrize(
    ("changed", "field", "says"),
    [
        ({"name": ""}, "name", "required"),
        ({"name": "n" * 101}, "name", "100"),
        ({"days": "366"}, "days", "365"),
        ({"days": "0"}, "days", "1"),
        ({"scopes": []}, "scopes", "required"),
        ({"scopes": ["fleet"]}, "scopes", "fleet"),
        ({"scopes": ["everything"]}, "scopes", "everything"),
        ({"project": "storms"}, "project", "not one of the available choices"),
    ],
)
def test_what_is_wrong_stands_at_its_field(
    world: World, changed: dict[str, Any], field: str, says: str
) -> None:
    answer = make(world.owner, **changed)
    page = answer.content.decode()
    assert answer.status_code == 422 and not shown(answer)
    assert says in "".join(re.findall(rf'id="id_{field}_error">(.*?)</span>', page))
    assert not ApiToken.objects.filter(name="notebook").exists()


def test_a_closed_project_gets_no_token(world: World) -> None:
    Project.objects.filter(pk=world.project.pk).update(is_active=False)
    assert make(world.owner).status_code == 422
    page = world.owner.browser.get("/tokens/").content.decode()
    assert "You belong to no project yet" in page and "Disabled" in page  # the one he had


def test_a_revoked_token_is_turned_away_and_stays_in_the_list(
    world: World, sent: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    text = shown(make(world.owner))
    path = f"/tokens/{row(world).pk}/revoke"
    with django_capture_on_commit_callbacks(execute=True):
        answer = world.owner.browser.post(path, follow=True)
    assert "is revoked" in answer.content.decode() and "Expired and revoked (1)" in answer.content.decode()
    assert ApiClient(text).send("GET", "models").status_code == 401
    assert keys.DIRECTORY.of() in dict(sent)
    assert "was already revoked" in world.owner.browser.post(path, follow=True).content.decode()


def test_everyone_has_only_their_own(world: World) -> None:
    make(world.owner)
    path = f"/tokens/{row(world).pk}/revoke"
    for who in (world.mate, world.manager, world.outsider, world.operator):
        assert "notebook" not in who.browser.get("/tokens/").content.decode()
        assert who.browser.post(path).status_code == 404
    assert Client().get("/tokens/")["Location"] == "/login/?next=/tokens/"
    assert Client().post(path)["Location"] == f"/login/?next={path}"
    assert row(world).revoked_at is None


def test_buttons_are_pressed_here_and_not_on_another_site(world: World) -> None:
    make(world.owner)
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    assert strict.post("/tokens/", WISH | {"name": "theirs"}).status_code == 403
    assert strict.post(f"/tokens/{row(world).pk}/revoke").status_code == 403
    assert world.owner.browser.get(f"/tokens/{row(world).pk}/revoke").status_code == 405
    assert row(world).revoked_at is None and not ApiToken.objects.filter(name="theirs").exists()


@pytest.mark.parametrize(("left", "says"), [(3, "Expires soon"), (30, "Active"), (-1, "Expired")])
def test_how_a_token_stands(world: World, left: int, says: str) -> None:
    ApiToken.objects.filter(user=world.owner.user).delete()
    token, _ = issue_token(world.owner.user, world.project, "one", ["read"])
    created = timezone.now() - timedelta(days=60)
    ApiToken.objects.filter(pk=token.pk).update(
        created_at=created, expires_at=timezone.now() + timedelta(days=left)
    )
    assert says in re.findall(
        r"</span> ([A-Z][a-z ]+)</span>", world.owner.browser.get("/tokens/").content.decode()
    )


def test_who_left_the_project_sees_that_the_token_is_dead(world: World) -> None:
    said = r"</span> ([A-Z][a-z ]+)</span>"
    Membership.objects.filter(user=world.owner.user).delete()
    assert re.findall(said, world.owner.browser.get("/tokens/").content.decode()) == ["Revoked"]


def test_a_token_of_a_closed_project_says_so(world: World) -> None:
    world.project.is_active = False
    world.project.save()
    assert "The project is closed." in world.owner.browser.get("/tokens/").content.decode()


def test_the_page_costs_as_many_queries_with_fifty_tokens(
    world: World, django_assert_num_queries: Any
) -> None:
    browser = world.owner.browser
    with django_assert_num_queries(8):
        browser.get("/tokens/")
    for number in range(50):
        issue_token(world.owner.user, world.project, f"t{number}", ["read"])
    with django_assert_num_queries(8):
        browser.get("/tokens/")


def test_names_are_shown_as_text(world: World) -> None:
    make(world.owner, name="<b>bold</b>")
    page = world.owner.browser.get("/tokens/").content.decode()
    assert "&lt;b&gt;bold" in page and "<b>bold" not in page
