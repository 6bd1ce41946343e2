"""The admin's forms: what a person may save, what is refused and how it is told, and who hears of it."""

from __future__ import annotations

from typing import Any

import pytest
from django.contrib.admin.helpers import ACTION_CHECKBOX_NAME
from django.contrib.messages import get_messages
from django.db.models import Model as Row
from django.urls import reverse
from django.utils import timezone

from portal.accounts.models import Project, Quota, User
from portal.catalog.models import Access, Environment, Model, Pool, Profile
from portal.fleet.models import Cluster, WayState
from portal.redis import hints
from tests.api.world import ApiClient, World
from tests.db.admin_site import admin_url, management, save
from tests.db.admin_site import root as root
from tests.db.admin_site import world as world


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
        (Profile, {"door_address": "node07.example.org"}, "door_address"),
        (Profile, {"door_address": "10.0.0.0/33"}, "door_address"),
        (Profile, {"door_address": "0.0.0.0"}, "door_address"),
        (Profile, {"door_address": "::"}, "door_address"),
        (Profile, {"door_address": "fe80::1"}, "door_address"),
        (Profile, {"door_address": "http://10.0.0.1"}, "door_address"),
        (Access, {"submit_prefix": '"ssh"'}, "submit_prefix"),
        (Access, {"kind": "rest"}, "address"),
        (Access, {"kind": "native"}, "python"),
        (Access, {"user": "berth"}, "user"),
        (Profile, {"scratch": "tmp"}, "scratch"),
        (Profile, {"walltime_least_min": 999}, "__all__"),
        (Project, {"model_roots": '["models"]'}, "model_roots"),
        (Project, {"model_roots": '["/"]'}, "model_roots"),
        (Project, {"model_roots": '["/models/../etc"]'}, "model_roots"),
        (Profile, {"portal_url_from_nodes": "ftp://x"}, "portal_url_from_nodes"),
        (Profile, {"portal_url_from_nodes": "http://fd00::1:8000"}, "portal_url_from_nodes"),
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


@pytest.mark.parametrize(
    "change",
    [
        {"door_address": "ib0"},
        {"door_address": "eth0.100"},
        {"door_address": "10.1.0.0/16"},
        {"door_address": "fd00::/8"},
        {"door_address": "fd00::7"},
        {"portal_url_from_nodes": "http://[fd00::1]:8000"},
        {"portal_url_from_nodes": "https://berth.example.org/at/"},
    ],
)
def test_a_profile_takes_every_form_of_its_network(
    root: ApiClient, world: World, change: dict[str, Any]
) -> None:
    assert save(root, world.profile, **change).status_code == 302


def test_vllm_needs_an_interpreter_and_a_model_folder(root: ApiClient, world: World) -> None:
    answer = save(root, world.pool.environment, engine="vllm")
    assert "python" in answer.context["adminform"].form.errors
    assert save(root, world.pool.environment, engine="vllm", python="/env/bin/python").status_code == 302
    assert "path" in save(root, world.model).context["adminform"].form.errors


def test_a_profile_shows_what_slurm_has_and_is_held_to_it(root: ApiClient, world: World) -> None:
    page = root.get(admin_url(Profile, "change", world.profile.pk)).content.decode()
    assert "has not queried Slurm yet" in page
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


def test_an_access_that_is_not_saved_yet_has_heard_nothing(root: ApiClient) -> None:
    cluster, _ = Cluster.objects.get_or_create(name="main")
    WayState.objects.create(cluster=cluster, name="", answered_at=timezone.now())
    page = root.get(reverse("admin:catalog_access_add")).content.decode()
    assert "It has not been used yet." in page and "Slurm answered" not in page


def test_what_is_not_built_is_not_offered_and_a_row_that_has_it_keeps_it(
    root: ApiClient, world: World
) -> None:
    old = Environment.objects.create(name="nets", engine="torch", python="/p")
    offered = root.get(admin_url(Environment, "add")).content.decode()
    assert 'value="vllm"' in offered and 'value="torch"' not in offered
    assert 'value="torch" selected' in root.get(admin_url(Environment, "change", old.pk)).content.decode()
    offered = root.get(admin_url(Model, "add")).content.decode()
    assert 'value="llm"' in offered and 'value="dnn"' not in offered
