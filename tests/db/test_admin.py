"""The admin: every table has its pages, what a person must not write cannot be written, payloads are never shown."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

import pytest
from django.apps import apps
from django.contrib import admin
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.auth.models import Permission
from django.contrib.messages import get_messages
from django.db.models import Model as Row
from django.forms import JSONField
from django.urls import reverse
from django.utils import timezone

from portal import hints
from portal.accounts.models import ApiToken, ClaimRule, Membership, Project, Quota, User
from portal.catalog.models import Model, Pool, Profile
from portal.fleet.models import (
    BadNode,
    Candidate,
    Cluster,
    Command,
    Decision,
    Fit,
    FleetEvent,
    GpuClaim,
    PilotLog,
    PoolState,
    ProfileState,
    Sample,
)
from portal.ledger.models import (
    Batch,
    BatchEnd,
    File,
    Holder,
    IdempotencyKey,
    Request,
    RequestEvent,
    Ticket,
    Usage,
)
from portal.notices.models import Delivery, OptOut, Webhook, Wish
from tests.api import world as make
from tests.api.world import CANARY_BODY, CANARY_RESULT, ApiClient, Person, World

EDITABLE = {
    "accounts.User", "accounts.Project", "accounts.Membership", "accounts.Quota", "accounts.ClaimRule",
    "catalog.Environment", "catalog.Profile", "catalog.Pool", "catalog.Model",
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


@pytest.fixture
def world(db: None) -> World:
    """One row at least in every table."""
    made = make.build()
    now = timezone.now()
    Quota.objects.create(level="project", project=made.project, requests_per_min=600)
    ClaimRule.objects.create(value="surfers", project=made.project)
    hook = Webhook.objects.create(user=made.owner.user, url="https://hooks.example/")
    Wish.objects.create(user=made.owner.user, model="surf")
    OptOut.objects.create(user=made.owner.user, kind="queue_old")
    Delivery.objects.create(key="k", kind="queue_old", webhook=hook, subject="s", next_at=now, created_at=now)
    pilot = make.pilot_row(made)
    replica = make.replica_row(made, pilot)
    GpuClaim.objects.create(pilot=pilot, gpu=0, replica=replica)
    PoolState.objects.create(pool=made.pool, reason="waits")
    Fit.objects.create(pool=made.pool, gpu_type="a100", load_s=40)
    ProfileState.objects.create(profile=pilot.profile, wait_p50_s=60)
    BadNode.objects.create(cluster="main", node="gpu01", failures=1, reason="no GPU")
    PilotLog.objects.create(pilot=pilot, text="loading weights", at=now)
    Sample.objects.create(
        cluster="main", at=now, busy=1, ready=0, loading=0, empty=0, asked=0, running=1, queued_held=0,
        queued_async=0, queued_batch=0, parked=0,
    )  # fmt: skip
    Decision.objects.create(
        at=now, kind="launch", pool="surf", pilot=pilot.id, reason="3 wait", inputs={"n": 3}
    )
    FleetEvent.objects.create(at=now, pilot=pilot.id, replica=replica.id, old="starting", new="hot")
    Command.objects.create(kind="drain", pilot=pilot, state="done", done_at=now)
    Candidate.objects.create(name="tide", path="/models/tide", project=made.project, profile=made.profile)
    row = make.request_row(made, "done", replica=replica.id)
    make.request_row(made, "running")
    Usage.objects.create(
        at=now.replace(minute=0, second=0, microsecond=0), step="hour", user_id=1, project_id=1, model="surf", requests=1,
        failed=0, prompt_tokens=1, completion_tokens=1, gpu_s=1,
    )  # fmt: skip
    Ticket.objects.create(request=row, token_id=1, digest="0" * 64, expires_at=now)
    IdempotencyKey.objects.create(token_id=1, key="k", digest="0" * 64, request=row.id, expires_at=now)
    RequestEvent.objects.create(
        request_id=row.id, at=now, kind="requeue", attempt=1, detail="its pilot ended"
    )
    Holder.objects.create(id="gw-1", kind="gateway", seen_at=now)
    file = File.objects.create(
        project_id=1,
        user_id=1,
        purpose="batch",
        name="in.jsonl",
        bytes=3,
        created_at=now,
        expires_at=now,
    )
    batch = Batch.objects.create(
        project_id=1, user_id=1, state="validating", endpoint="/v1/completions", input_file=file,
        created_at=now, expires_at=now,
    )  # fmt: skip
    BatchEnd.objects.create(batch_id=batch.id, request_id=row.id, result=b"secret")
    return made


@pytest.fixture
def root(world: World) -> ApiClient:
    user = User.objects.create_superuser("root", password=None)
    return Person(user, "").browser


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


def test_a_pool_is_edited_by_a_person(root: ApiClient, world: World) -> None:
    answer = save(root, world.pool, cap=7, args='{"max_model_len": 1024}')
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    world.pool.refresh_from_db()
    assert (world.pool.cap, world.pool.args) == (7, {"max_model_len": 1024})


@pytest.mark.parametrize(
    ("table", "change", "field"),
    [
        (Pool, {"args": "[1]"}, "args"),
        (Pool, {"args": '{"a b": 1}'}, "args"),
        (Pool, {"args": '{"nested": {"x": 1}}'}, "args"),
        (Pool, {"min_replicas": 3, "max_replicas": 1}, "__all__"),
        (Profile, {"partition": "gpu; rm -rf /"}, "partition"),
        (Profile, {"door_ports": "9-5"}, "door_ports"),
        (Profile, {"submit_prefix": '"ssh"'}, "submit_prefix"),
        (Profile, {"scratch": "tmp"}, "scratch"),
        (Profile, {"walltime_least_min": 999}, "__all__"),
        (Project, {"model_roots": '["models"]'}, "model_roots"),
        (Project, {"model_roots": '["/"]'}, "model_roots"),
        (Project, {"model_roots": '["/models/../etc"]'}, "model_roots"),
        (Profile, {"portal_url_from_nodes": "ftp://x"}, "portal_url_from_nodes"),
        (Model, {"path": "/models/../etc"}, "path"),
        (Model, {"name": "a b"}, "name"),
    ],
)
def test_the_catalog_says_what_is_wrong(
    root: ApiClient, world: World, table: type[Row], change: dict[str, Any], field: str
) -> None:
    row = table._default_manager.all()[0]
    answer = save(root, row, **change)
    assert answer.status_code == 200
    assert field in answer.context["adminform"].form.errors


def test_vllm_needs_an_interpreter_and_a_model_folder(root: ApiClient, world: World) -> None:
    answer = save(root, world.pool.environment, engine="vllm")
    assert "python" in answer.context["adminform"].form.errors
    assert save(root, world.pool.environment, engine="vllm", python="/env/bin/python").status_code == 302
    assert "path" in save(root, world.model).context["adminform"].form.errors


def test_a_profile_shows_what_slurm_has_and_is_held_to_it(root: ApiClient, world: World) -> None:
    page = root.get(admin_url(Profile, "change", world.profile.pk)).content.decode()
    assert "has not asked Slurm yet" in page
    answer = save(root, world.profile, gpus=2)
    assert any("are not checked" in str(said) for said in get_messages(answer.wsgi_request))
    group = {"count": 2, "gres": "gpu:a100:4"}
    Cluster.objects.update(partitions={"gpu": {"up": True, "limit_min": 60, "groups": [group]}})
    page = root.get(admin_url(Profile, "change", world.profile.pk)).content.decode()
    assert "2 nodes, 4 × a100 on one, at most 60 min" in page
    answer = save(root, world.profile, partition="gpus")
    assert answer.context["adminform"].form.errors == {
        "partition": ["Slurm knows no partition 'gpus'. There are: gpu."]
    }


def test_a_quota_names_one_subject_of_its_level_and_a_model_that_is_there(
    root: ApiClient, world: World
) -> None:
    path = reverse("admin:accounts_quota_add")
    for form, says in (
        (
            {"level": "user", "project": world.project.pk},
            "A quota of a user names one user and nothing else.",
        ),
        ({"level": "model", "model": "surv"}, "Did you mean surf?"),
        ({"level": "user", "user": world.owner.user.pk, "requests_per_min": 0}, "at least 1; empty is none"),
    ):
        assert says in str(root.post(path, form).context["adminform"].form.errors)
    assert root.post(path, {"level": "model", "model": "surf", "queued": 5}).status_code == 302
    assert Quota.objects.get(level="model").queued == 5


def test_what_is_saved_or_deleted_is_told_once_it_is_committed(
    root: ApiClient, world: World, monkeypatch: pytest.MonkeyPatch, django_capture_on_commit_callbacks: Any
) -> None:
    heard: list[str] = []
    monkeypatch.setattr(hints, "directory_changed", lambda: heard.append("directory"))
    monkeypatch.setattr(hints, "tick_soon", lambda: heard.append("tick"))
    quota = Quota.objects.get()
    with django_capture_on_commit_callbacks(execute=True):
        save(root, quota, queued=9)
    assert set(heard) == {"directory", "tick"}
    heard.clear()
    with django_capture_on_commit_callbacks(execute=True):
        form = {"action": "delete_selected", ACTION_CHECKBOX_NAME: [quota.pk], "post": "yes"}
        root.post(admin_url(Quota, "changelist"), form)
    assert heard and not Quota.objects.exists()


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


def test_a_user_and_a_project_are_made_by_a_person(root: ApiClient) -> None:
    form = {"username": "grace", "usable_password": "false", "password1": "", "password2": ""}
    answer = root.post(reverse("admin:accounts_user_add"), form | management("membership_set"))
    assert answer.status_code == 302, answer.context["adminform"].form.errors
    answer = root.post(
        reverse("admin:accounts_project_add"),
        {"slug": "tides", "name": "Tides", "weight": "1", "is_active": "on", "model_roots": "[]"}
        | management("membership_set"),
    )
    assert answer.status_code == 302
    assert User.objects.filter(username="grace").exists() and Project.objects.filter(slug="tides").exists()


def test_pages_carry_the_content_security_policy(root: ApiClient) -> None:
    assert root.get("/admin/")["Content-Security-Policy"].startswith("default-src 'self';")


def admin_url(model: type[Row], page: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{page}", args=args)


def act(client: ApiClient, model: type[Row], action: str, pk: Any) -> Any:
    return client.post(admin_url(model, "changelist"), {"action": action, ACTION_CHECKBOX_NAME: [pk]})


def save(client: ApiClient, row: Row, **change: Any) -> Any:
    """Posts the row's own form, with changes."""
    path = admin_url(type(row), "change", row.pk)
    form = client.get(path).context["adminform"].form
    data: dict[str, Any] = {}
    for name, field in form.fields.items():
        value = form.get_initial_for_field(field, name)
        if isinstance(field, JSONField):
            data[name] = json.dumps(value)
        elif isinstance(value, bool):
            data |= {name: "on"} if value else {}
        elif isinstance(value, list):
            data[name] = [item.pk for item in value]
        elif value is not None:
            data[name] = value
    return client.post(path, data | change)


def management(prefix: str) -> dict[str, int]:
    return {f"{prefix}-TOTAL_FORMS": 0, f"{prefix}-INITIAL_FORMS": 0}


def test_an_unknown_row_is_not_an_error_page(root: ApiClient) -> None:
    assert root.get(admin_url(Request, "change", uuid4())).status_code == 302
