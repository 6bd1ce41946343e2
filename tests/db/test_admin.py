"""The admin: every table has its pages, what a person must not write cannot be written, payloads are never shown."""

from __future__ import annotations

from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.auth.models import Permission
from django.db.models import Model as Row
from django.urls import reverse

from portal.accounts.models import ApiToken, Membership, Project, Quota, User
from portal.catalog.models import Model, Pool, settle_bases
from portal.fleet.models import Command, FleetEvent
from portal.ledger.models import Request, Usage, UsageTotal
from tests.api.world import CANARY_BODY, CANARY_RESULT, ApiClient, Person, World
from tests.db.admin_site import act, admin_url
from tests.db.admin_site import root as root
from tests.db.admin_site import world as world

EDITABLE = {
    "accounts.User", "accounts.Project", "accounts.Membership", "accounts.Quota", "accounts.ClaimRule",
    "catalog.Environment", "catalog.Access", "catalog.Profile", "catalog.Pool", "catalog.Model",
}  # fmt: skip
OURS = ("accounts", "catalog", "ledger", "fleet", "audit", "notices")
TABLES = [
    model
    for label in OURS
    for model in apps.get_app_config(label).get_models()
    if not model._meta.auto_created
]
READ_ONLY = [model for model in TABLES if model._meta.label not in EDITABLE]


def label(model: type[Row]) -> str:
    return model._meta.label


def test_every_table_has_a_page_in_the_admin() -> None:
    assert [label(model) for model in TABLES if not admin.site.is_registered(model)] == []


@pytest.mark.parametrize("model", TABLES, ids=label)
def test_every_list_and_every_row_is_shown(root: ApiClient, model: type[Row]) -> None:
    page = root.get(admin_url(model, "changelist") + "?q=4711")
    assert page.status_code == 200
    assert root.get(admin_url(model, "changelist")).status_code == 200
    rows = model._default_manager.all()[:3]
    assert rows, f"the fixture makes no row of {label(model)}"
    for row in rows:
        shown = root.get(admin_url(model, "change", row.pk))
        assert shown.status_code == 200


@pytest.mark.parametrize("model", TABLES, ids=label)
def test_no_page_shows_a_payload(root: ApiClient, model: type[Row]) -> None:
    paths = [admin_url(model, "changelist")]
    for row in model._default_manager.all()[:3]:
        paths += [admin_url(model, "change", row.pk), admin_url(model, "history", row.pk)]
    for path in paths:
        text = root.get(path).content.decode()
        assert CANARY_BODY not in text and CANARY_RESULT not in text
        assert CANARY_BODY.encode().hex() not in text


@pytest.mark.parametrize("model", READ_ONLY, ids=label)
def test_what_a_person_must_not_write_is_refused_to_the_superuser(root: ApiClient, model: type[Row]) -> None:
    row = model._default_manager.all()[0]
    before = model._default_manager.filter(pk=row.pk).values().get()
    fields = {field.name: "x" for field in model._meta.fields}
    assert root.post(admin_url(model, "add"), fields).status_code == 403
    assert root.post(admin_url(model, "change", row.pk), fields).status_code == 403
    assert root.post(admin_url(model, "delete", row.pk), {"post": "yes"}).status_code == 403
    act(root, model, "delete_selected", row.pk)
    assert model._default_manager.filter(pk=row.pk).values().get() == before


def test_tokens_are_revoked_by_an_action(root: ApiClient, world: World) -> None:
    token = ApiToken.objects.get(user=world.owner.user)
    act(root, ApiToken, "revoke_tokens", token.pk)
    token.refresh_from_db()
    assert token.revoked_at is not None
    page = root.get(admin_url(ApiToken, "change", token.pk)).content.decode()
    assert token.digest not in page and token.prefix in page


@pytest.mark.parametrize(
    ("table", "action", "kind"),
    [
        ("fleet.Pilot", "drain", "drain"),
        ("fleet.Pilot", "cancel", "cancel"),
        ("fleet.Pilot", "fetch_log", "log"),
        ("fleet.Replica", "drain", "drain"),
        ("fleet.Cluster", "pause", "pause"),
        ("fleet.Cluster", "resume", "resume"),
        ("catalog.Pool", "wake", "wake"),
        ("catalog.Pool", "relaunch", "relaunch"),
        ("catalog.Pool", "pause", "pause"),
        ("catalog.Pool", "resume", "resume"),
    ],
)
def test_actions_write_commands_and_nothing_else(root: ApiClient, table: str, action: str, kind: str) -> None:
    model = apps.get_model(table)
    row = model._default_manager.all()[0]
    before = model._default_manager.filter(pk=row.pk).values().get()
    act(root, model, action, row.pk)
    assert Command.objects.get(state="pending").kind == kind
    assert model._default_manager.filter(pk=row.pk).values().get() == before


def test_staff_who_do_not_operate_give_no_commands(root: ApiClient, world: World) -> None:
    clerk = User.objects.create_user("clerk", is_staff=True)
    clerk.user_permissions.set(Permission.objects.filter(content_type__app_label="fleet"))
    browser = Person(clerk, "").browser
    model = apps.get_model("fleet.Pilot")
    assert browser.get(admin_url(model, "changelist")).status_code == 200
    act(browser, model, "cancel", model._default_manager.all()[0].pk)
    assert not Command.objects.filter(state="pending").exists()


def test_the_admin_is_closed_to_users_and_operators(world: World) -> None:
    for who in (world.owner, world.manager, world.operator):
        assert who.browser.get(reverse("admin:index")).status_code == 302


def test_pages_lead_from_pilot_to_replicas_decisions_and_log(root: ApiClient, world: World) -> None:
    pilot = apps.get_model("fleet.Pilot")._default_manager.all()[0]
    page = root.get(admin_url(type(pilot), "change", pilot.pk)).content.decode()
    paths = [
        f"/admin/fleet/replica/?pilot__id={pilot.pk}",
        f"/admin/fleet/decision/?pilot={pilot.pk}",
        f"/admin/fleet/fleetevent/?pilot={pilot.pk}",
        f"/fleet/pilots/{pilot.pk}/",
    ]
    for path in paths:
        assert f'href="{path}"' in page
        assert root.get(path).status_code == 200
    assert root.get("/admin/fleet/replica/?pool__name=surf").status_code == 200
    assert "10.1.2.3" not in page


def test_lists_and_forms_cost_as_much_with_many_rows(
    root: ApiClient, world: World, django_assert_max_num_queries: Any
) -> None:
    people = User.objects.bulk_create(User(username=f"user{n}") for n in range(150))
    projects = Project.objects.bulk_create(Project(slug=f"project{n}", name="P") for n in range(150))
    Membership.objects.bulk_create(
        Membership(user=one, project=project) for one, project in zip(people, projects, strict=True)
    )
    Membership.objects.bulk_create(Membership(user=one, project=projects[0]) for one in people[1:])
    Pool.objects.bulk_create(Pool(name=f"pool{n}", environment=world.pool.environment) for n in range(150))
    Model.objects.bulk_create(Model(name=f"model{n}", pool_id=f"pool{n}") for n in range(150))
    settle_bases(f"pool{n}" for n in range(150))
    for table in (User, Project, Membership, Quota, Pool, Model):
        with django_assert_max_num_queries(14):
            assert root.get(admin_url(table, "changelist")).status_code == 200
    paths = (
        admin_url(Model, "change", world.model.pk),
        admin_url(Project, "change", projects[0].pk),
        reverse("admin:accounts_quota_add"),
    )
    for path in paths:
        with django_assert_max_num_queries(20):
            page = root.get(path).content.decode()
        assert "user149" not in page and "project149" not in page and "pool149" not in page
    assert "membership_set-TOTAL_FORMS" not in page and "150 members" in root.get(paths[1]).content.decode()
    assert (
        "membership_set-TOTAL_FORMS"
        in root.get(admin_url(Project, "change", world.project.pk)).content.decode()
    )


def test_the_admin_leads_back_and_has_our_colours(root: ApiClient) -> None:
    page = root.get("/admin/").content.decode()
    assert '<a href="/">Back to Berth</a>' in page and "css/admin.css" in page and "View site" not in page


def test_pages_carry_the_content_security_policy(root: ApiClient) -> None:
    assert root.get("/admin/")["Content-Security-Policy"].startswith("default-src 'self';")


def test_an_unknown_row_is_not_an_error_page(root: ApiClient) -> None:
    assert root.get(admin_url(Request, "change", uuid4())).status_code == 302


@pytest.mark.parametrize(
    ("model", "word", "found"),
    [(Usage, "1", 1), (Usage, "2", 0), (Usage, "surf", 0), (UsageTotal, "surf", 1), (UsageTotal, "tide", 0)],
)
def test_sums_of_what_was_used_are_found_by_what_an_index_knows(
    root: ApiClient, model: type[Row], word: str, found: int
) -> None:
    page = root.get(admin_url(model, "changelist") + f"?q={word}")
    assert page.context["cl"].result_count == found


@pytest.mark.parametrize(("query", "found"), [("?new=hot", 1), ("?new=up", 0), ("", 1)])
def test_moves_are_filtered_by_the_states_that_there_may_be(root: ApiClient, query: str, found: int) -> None:
    page = root.get(admin_url(FleetEvent, "changelist") + query)
    assert page.context["cl"].result_count == found and "?new=draining" in page.content.decode()
