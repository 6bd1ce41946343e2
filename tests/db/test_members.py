"""Whoever leaves a project loses the tokens that act in it, by whichever way they left; others keep theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from django.urls import reverse

from portal.accounts import claims, members
from portal.accounts.callers import read_principal
from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, Membership, Project, User
from portal.audit.models import Change
from portal.db.transaction import moving
from portal.redis import hints
from tests.api import world as make
from tests.api.world import ApiClient, Person, World


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("_publish", "_send_tick"):
        monkeypatch.setattr(hints, name, lambda *said: None)
    return make.build()


def by_a_manager(row: Membership, root: ApiClient) -> None:
    members.remove(row)


def by_a_claim_that_is_gone(row: Membership, root: ApiClient) -> None:
    Membership.objects.filter(pk=row.pk).update(by_claim=True)
    claims.apply(row.user, claims.Standing())


def by_the_list_of_the_admin(row: Membership, root: ApiClient) -> None:
    assert (
        root.post(reverse("admin:accounts_membership_delete", args=[row.pk]), {"post": "yes"}).status_code
        == 302
    )


def by_an_action_of_the_admin(row: Membership, root: ApiClient) -> None:
    form = {"action": "delete_selected", "_selected_action": [row.pk], "post": "yes"}
    assert root.post(reverse("admin:accounts_membership_changelist"), form).status_code == 302


def by_the_projects_form(row: Membership, root: ApiClient) -> None:
    project = row.project
    rows = Membership.objects.filter(project=project)
    form: dict[str, object] = {
        "slug": project.slug, "name": project.name, "weight": "1", "model_roots": "[]", "is_active": "on",
        "membership_set-TOTAL_FORMS": len(rows), "membership_set-INITIAL_FORMS": len(rows),
    }  # fmt: skip
    for n, one in enumerate(rows):
        facts = {"id": one.pk, "project": project.pk, "user": one.user.pk, "role": one.role, "priority": 0}
        form |= {f"membership_set-{n}-{name}": value for name, value in facts.items()}
        if one == row:
            form[f"membership_set-{n}-DELETE"] = "on"
    assert root.post(reverse("admin:accounts_project_change", args=[project.pk]), form).status_code == 302


def by_being_moved(row: Membership, root: ApiClient) -> None:
    third = Project.objects.create(slug="tides", name="Tides")
    form = {"user": row.user.pk, "project": third.pk, "role": "member", "priority": "0"}
    assert root.post(reverse("admin:accounts_membership_change", args=[row.pk]), form).status_code == 302


@pytest.mark.parametrize(
    "way",
    [
        by_a_manager, by_a_claim_that_is_gone, by_the_list_of_the_admin, by_an_action_of_the_admin,
        by_the_projects_form, by_being_moved,
    ],
)  # fmt: skip
def test_who_leaves_a_project_loses_its_tokens(
    world: World, way: Callable[[Membership, ApiClient], None]
) -> None:
    root = Person(User.objects.create_superuser("root", password=None), "").browser
    owner = world.owner.user
    theirs = ApiToken.objects.get(user=owner)
    Membership.objects.create(user=owner, project=world.other)
    elsewhere, _ = issue_token(owner, world.other, "there", ["read"])
    way(Membership.objects.get(user=owner, project=world.project), root)
    assert not Membership.objects.filter(user=owner, project=world.project).exists()
    kept = ApiToken.objects.filter(revoked_at=None)
    assert theirs not in kept and elsewhere in kept
    assert ApiToken.objects.get(user=world.mate.user) in kept
    assert Change.objects.filter(table="accounts.ApiToken", key=str(theirs.pk), action="changed").exists()


def test_another_role_ends_no_token(world: World) -> None:
    theirs = ApiToken.objects.get(user=world.owner.user)
    members.set_role(Membership.objects.get(user=world.owner.user), "manager")
    theirs.refresh_from_db()
    assert theirs.revoked_at is None


def test_an_administrator_sets_a_members_usual_priority(world: World) -> None:
    root = Person(User.objects.create_superuser("root", password=None), "").browser
    row = Membership.objects.get(user=world.owner.user, project=world.project)
    form = {"user": row.user.pk, "project": row.project.pk, "role": row.role}
    page = reverse("admin:accounts_membership_change", args=[row.pk])
    assert root.post(page, form | {"priority": "-1"}).status_code == 302
    with moving() as cur:
        assert read_principal(cur, None, row.user.pk, row.project.pk).priority == -1
    assert "not one of the available choices" in root.post(page, form | {"priority": "5"}).content.decode()
    with moving() as cur:
        assert read_principal(cur, None, row.user.pk, row.project.pk).priority == -1
        assert read_principal(cur, None, world.operator.user.pk, world.project.pk).priority == 0
