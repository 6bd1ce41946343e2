"""Registering a model: who may, what is refused in words, from a folder to a model that is tried."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from django.urls import reverse

from portal import config as configuration
from portal.accounts.models import Project, User
from portal.catalog.models import Environment, Model, Profile
from portal.fleet.models import Candidate, Command
from portal.services import registration
from tests.api.world import FOUND, ApiClient, Person, World, candidate_row

PAGE = "/models/register/"
NEW = {"name": "tide", "path": "/models/waves/tide", "project": "waves", "profile": "gpu"}
CHOSEN = {"environment": "vllm", "gpus": 1, "mem_mb": 4000, "cap": 8, "keep_alive_s": 60, "load_estimate_s": 30,
          "context_tokens": 4096}  # fmt: skip


@pytest.fixture
def world(world: World) -> World:
    Project.objects.filter(slug="waves").update(model_roots=["/models/waves"])
    Environment.objects.create(name="vllm", engine="vllm", python="/env/bin/python")
    Environment.objects.create(name="torch", engine="torch", python="/env/bin/python")
    return world


@pytest.fixture
def root(world: World) -> ApiClient:
    return Person(User.objects.create_superuser("root", password=None), "").browser


def at(row: Candidate, verb: str = "") -> str:
    return f"{PAGE}{row.pk}/{verb}"


def text(answer: Any) -> str:
    return str(answer.content.decode())


def test_only_those_who_may_see_the_way_to_it(world: World, root: ApiClient) -> None:
    for who, sees in (
        (world.owner, False),
        (world.outsider, False),
        (world.manager, True),
        (world.operator, True),
    ):
        assert (PAGE in text(who.browser.get("/"))) == sees
        assert who.browser.get(PAGE).status_code == (200 if sees else 403)
    assert "You manage no project" in text(world.operator.browser.get(PAGE))
    assert ApiClient().get(PAGE)["Location"] == f"/login/?next={PAGE}"


def test_a_manager_names_a_folder_and_a_job_is_asked(world: World, sent: list[tuple[str, str]]) -> None:
    answer = world.manager.browser.post(PAGE, NEW)
    row = Candidate.objects.get()
    assert answer["Location"] == at(row)
    command = Command.objects.get()
    assert (command.kind, command.args, command.created_by) == (
        "inspect",
        {"candidate": row.pk},
        world.manager.user,
    )
    command.result = "Waiting for job 7 of profile gpu to start."
    command.save()
    page = text(world.manager.browser.get(at(row)))
    assert "Waiting for a job" in page and "Waiting for job 7" in page and 'hx-trigger="every 3s"' in page
    assert "Inspecting" not in page and "Save model" not in page


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"path": "/models/storms/x"}, "The folder must be below /models/waves."),
        ({"path": "/models/waves"}, "The folder must be below /models/waves."),
        ({"path": "/models/wavesome"}, "The folder must be below /models/waves."),
        ({"path": "models/waves/x"}, "Write an absolute path"),
        ({"path": "/models/waves/../storms"}, "Write an absolute path"),
        ({"name": "a b; rm"}, "Letters, digits"),
        ({"name": "surf"}, "A model or pool named &#x27;surf&#x27; already exists."),
        ({"project": "storms"}, "Select a valid choice"),
        ({"profile": "secret"}, "Select a valid choice"),
    ],
)
def test_what_is_wrong_is_said_at_once(world: World, change: dict[str, str], says: str) -> None:
    Profile.objects.create(name="secret", partition="gpu", charge="project", project=world.other)
    answer = world.manager.browser.post(PAGE, NEW | change)
    assert answer.status_code == 422 and says in text(answer)
    assert not Candidate.objects.exists() and not Command.objects.exists()


def test_a_project_without_roots_is_told_the_next_step(world: World, root: ApiClient) -> None:
    answer = root.post(PAGE, NEW | {"project": "storms"})
    assert "storms has no model roots yet" in text(answer)


def test_a_managers_model_waits_for_an_operator(world: World) -> None:
    row = candidate_row(world)
    page = text(world.manager.browser.get(at(row)))
    assert "a model for <strong>chat</strong>" in page and "It needs about 4.9 GiB" in page
    assert 'value="8192"' in page and "trust_remote_code" not in page and "torch" not in page
    assert world.manager.browser.post(at(row), CHOSEN).status_code == 302
    model = Model.objects.get(name="tide")
    assert not model.enabled and not model.is_public and [str(p) for p in model.projects.all()] == ["waves"]
    assert (model.path, model.registered_for, model.context_tokens) == (
        "/models/waves/tide",
        world.project,
        4096,
    )
    assert model.pool.args == {"max_model_len": 4096} and [str(p) for p in model.pool.profiles.all()] == [
        "gpu"
    ]
    assert "Waiting for approval" in text(world.manager.browser.get(at(row)))
    world.manager.browser.post(at(row, "test"))
    assert not Command.objects.exists()
    assert world.manager.browser.post(at(row, "approve")).status_code == 403
    assert world.operator.browser.post(at(row, "approve")).status_code == 302
    model.refresh_from_db()
    assert model.enabled
    world.manager.browser.post(at(row, "test"))
    command = Command.objects.get()
    assert (command.kind, command.pool_id) == ("test_launch", "tide")
    Command.objects.update(state="done", result="tide works.")
    assert "Test: tide works." in text(world.manager.browser.get(at(row)))
    assert world.operator.browser.post(at(row, "test")).status_code == 404, "approving is not managing"
    assert world.owner.browser.get(at(row)).status_code == 403


def test_where_the_site_wants_no_approval_it_is_there_at_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    lax = dataclasses.replace(configuration.config(), register_approval=False)
    monkeypatch.setattr(registration, "config", lambda: lax)
    world.manager.browser.post(at(candidate_row(world)), CHOSEN)
    assert Model.objects.get(name="tide").enabled


@pytest.mark.parametrize("facts", [{"needs_code": True}, {"other_weights": ["pytorch_model.bin"]}])
def test_what_may_run_code_is_an_administrators_act(
    world: World, root: ApiClient, facts: dict[str, Any]
) -> None:
    row = candidate_row(world, found=FOUND | facts)
    assert "Only an administrator may save it" in text(world.manager.browser.post(at(row), CHOSEN))
    sneaky = CHOSEN | {"trust_remote_code": "on", "is_public": "on"}
    assert world.manager.browser.post(at(row), sneaky).status_code == 422
    assert not Model.objects.filter(name="tide").exists()
    assert root.post(at(row), sneaky).status_code == 302
    model = Model.objects.get(name="tide")
    assert model.enabled and model.is_public and model.pool.args["trust_remote_code"] is True


def test_a_manager_cannot_open_it_to_others(world: World) -> None:
    world.manager.browser.post(
        at(candidate_row(world)), CHOSEN | {"is_public": "on", "trust_remote_code": "on"}
    )
    model = Model.objects.get(name="tide")
    assert not model.is_public and "trust_remote_code" not in model.pool.args, "it has no such fields"


def test_what_would_never_fit_or_was_taken_meanwhile_is_refused(world: World, root: ApiClient) -> None:
    row = candidate_row(world)
    assert "the model does not fit" in text(root.post(at(row), CHOSEN | {"gpus": 2}))
    assert "the model does not fit" in text(root.post(at(row), CHOSEN | {"mem_mb": 99_999}))
    second = candidate_row(world)
    assert root.post(at(row), CHOSEN).status_code == 302
    assert "already exists" in text(root.post(at(second), CHOSEN))
    assert root.post(at(row), CHOSEN).status_code == 200 and Model.objects.filter(name="tide").count() == 1


def test_an_echo_environment_gets_no_arguments(world: World, root: ApiClient) -> None:
    assert root.post(at(candidate_row(world)), CHOSEN | {"environment": "echo"}).status_code == 302
    assert Model.objects.get(name="tide").pool.args == {}


def test_after_a_mistake_it_is_looked_at_again(world: World) -> None:
    row = candidate_row(world, found=None, error="There is no config.json.")
    page = text(world.manager.browser.get(at(row)))
    assert "There is no config.json." in page and "Inspect again" in page
    assert world.manager.browser.post(at(row, "again")).status_code == 302
    row.refresh_from_db()
    assert row.error == "" and row.found_at is None and Command.objects.get().kind == "inspect"
    world.manager.browser.post(at(row, "again"))
    assert Command.objects.count() == 1, "it is being looked at"


def test_the_fragment_is_silent_until_something_moves(world: World) -> None:
    row = candidate_row(world, found=None, found_at=None)
    path, browser = at(row, "fragments/candidate"), world.manager.browser
    first = browser.get(path)
    assert browser.get(path, headers={"If-None-Match": first["ETag"]}).status_code == 304
    Candidate.objects.update(error="No.", found_at="2026-01-01T00:00Z")
    assert browser.get(path, headers={"If-None-Match": first["ETag"]}).status_code == 200
    assert browser.get(reverse("register-fragment", args=[row.pk + 1])).status_code == 404
