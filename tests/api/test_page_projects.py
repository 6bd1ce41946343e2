"""Projects: everyone sees their own and its limits; its managers look after members and tokens, nobody else does."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

from portal.accounts.models import ApiToken, Membership, Quota, User
from portal.redis import keys
from tests.api.world import CANARY_BODY, Person, World, request_row

PAGE = "/projects/waves/"


def member(person: Person) -> Membership:
    return Membership.objects.get(user=person.user)


def change(by: Person, of: Person, role: str) -> Any:
    return by.browser.post(f"{PAGE}members/{member(of).pk}", {"role": role}, follow=True)


def test_everyone_sees_their_own_projects_and_limits(world: World) -> None:
    Quota.objects.create(level="project", project=world.project, requests_per_min=4711)
    page = world.owner.browser.get("/projects/").content.decode()
    assert "Waves" in page and "4711" in page and "Storms" not in page and PAGE not in page
    assert PAGE in world.manager.browser.get("/projects/").content.decode()
    assert "4711" not in world.outsider.browser.get("/projects/").content.decode()


def test_the_page_of_a_project_is_its_managers(world: World) -> None:
    request_row(world, "done")
    page = world.manager.browser.get(PAGE).content.decode()
    assert "owner" in page and "mate" in page and "Done" in page and CANARY_BODY not in page
    for who in (world.owner, world.mate, world.outsider, world.operator):
        assert who.browser.get(PAGE).status_code == 404
        assert who.browser.post(PAGE, {"username": "outsider", "role": "member"}).status_code == 404
        assert (
            who.browser.post(f"{PAGE}members/{member(world.owner).pk}", {"role": "none"}).status_code == 404
        )
    assert Client().get(PAGE)["Location"] == f"/login/?next={PAGE}"
    assert Membership.objects.filter(project=world.project).count() == 3


def test_a_manager_adds_somebody_by_name(
    world: World, sent: list[tuple[str, str]], django_capture_on_commit_callbacks: Any
) -> None:
    browser = world.manager.browser
    with django_capture_on_commit_callbacks(execute=True):
        answer = browser.post(PAGE, {"username": "outsider", "role": "member"}, follow=True)
    assert "outsider was added to the project" in answer.content.decode()
    assert keys.DIRECTORY.of() in dict(sent)
    assert "storms" not in browser.get(PAGE).content.decode(), "what else they belong to is theirs"
    for name, says in (("outsider", "already"), ("nobody-here", "nobody called"), ("", "required")):
        answer = browser.post(PAGE, {"username": name, "role": "member"})
        assert answer.status_code == 422 and says in answer.content.decode()
    assert browser.post(PAGE, {"username": "operator", "role": "king"}).status_code == 422


def test_who_is_removed_loses_the_tokens_of_this_project(world: World) -> None:
    token = ApiToken.objects.get(user=world.owner.user)
    assert "was removed from the project" in change(world.manager, world.owner, "none").content.decode()
    token.refresh_from_db()
    assert token.revoked_at is not None
    assert world.owner.api.send("GET", "models").status_code == 401


def test_a_project_keeps_a_manager(world: World) -> None:
    for role in ("none", "member"):
        assert "would have no manager" in change(world.manager, world.manager, role).content.decode()
    assert member(world.manager).role == "manager"
    change(world.manager, world.mate, "manager")
    answer = change(world.manager, world.manager, "member")
    assert answer.redirect_chain[-1][0] == "/projects/"
    assert world.manager.browser.get(PAGE).status_code == 404
    assert world.mate.browser.get(PAGE).status_code == 200


def test_nothing_of_another_project_can_be_changed_through_this_one(world: World) -> None:
    theirs = ApiToken.objects.get(user=world.outsider.user)
    browser = world.manager.browser
    assert browser.post(f"{PAGE}members/{member(world.outsider).pk}", {"role": "none"}).status_code == 404
    assert browser.post(f"{PAGE}tokens/{theirs.pk}/revoke").status_code == 404
    assert browser.get("/projects/storms/").status_code == 404
    theirs.refresh_from_db()
    assert theirs.revoked_at is None


def test_a_manager_ends_a_token_of_the_project(world: World) -> None:
    token = ApiToken.objects.get(user=world.owner.user)
    answer = world.manager.browser.post(f"{PAGE}tokens/{token.pk}/revoke", follow=True)
    assert "is revoked" in answer.content.decode()
    assert world.owner.api.send("GET", "models").status_code == 401
    assert world.owner.browser.post(f"{PAGE}tokens/{token.pk}/revoke").status_code == 404


def test_an_administrator_manages_every_project(world: World) -> None:
    browser = Client()
    browser.force_login(User.objects.create_superuser("root", password=None))
    assert browser.get(PAGE).status_code == 200


@pytest.mark.parametrize("path", ["/projects/", PAGE])
def test_pages_cost_as_many_queries_with_many_members(
    world: World, path: str, django_assert_max_num_queries: Any
) -> None:
    browser = world.manager.browser
    for number in range(30):
        user = User.objects.create_user(f"u{number}", password=None)
        Membership.objects.create(user=user, project=world.project)
    with django_assert_max_num_queries(10):
        browser.get(path)
