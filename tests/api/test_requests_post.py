"""POST /api/v1/requests: what is queued, for whom, and what is refused without leaving a row."""

from __future__ import annotations

import json
from typing import Any
from uuid import UUID

import pytest
import redis as redis_library
from django.test import Client

from portal.accounts.issue import issue_token, revoke
from portal.accounts.models import ApiToken, Membership, Project
from portal.config import config
from portal.ledger.models import Payload, Request
from portal.redis import keys
from tests.api.world import BODY, CHAT, ApiClient, World

ASK = {"model": "surf", "api": CHAT, "body": BODY}


def said(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def refused(answer: Any, status: int, code: str, param: str | None = None) -> None:
    """Check that a call was answered with this error in the one envelope, and that nothing is queued."""
    assert answer.status_code == status, answer.content
    error = answer.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert error["message"] and error["type"] and error["request_id"]
    assert not Request.objects.exists() and not Payload.objects.exists()


def test_a_member_hands_in_a_request(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    answer = world.owner.api.send("POST", "requests", ASK)
    assert answer.status_code == 202
    told = answer.json()
    assert answer["Location"] == f"/api/v1/requests/{told['id']}"
    assert (told["state"], told["lane"], told["position"], told["attempt"]) == ("queued", "async", 1, 0)
    row = Request.objects.get(id=UUID(told["id"]))
    assert (row.project_id, row.user_id, row.pool) == (world.project.pk, world.owner.user.pk, "surf")
    assert row.token_id == ApiToken.objects.get(user=world.owner.user).pk
    assert row.order_key == 0.0, "the first of an idle line starts at its virtual time"
    assert json.loads(bytes(row.payload.body)) == {**BODY, "model": "surf"}


def test_pilots_and_the_loop_are_told_after_the_row_is_there(
    world: World, sent: list[tuple[str, str]]
) -> None:
    world.owner.api.send("POST", "requests", ASK)
    assert sent == [(keys.ROWS.of("surf"), "look"), ("tick", "look")]


def test_every_caller_with_access_to_the_model_may_ask_and_nobody_else(world: World) -> None:
    got = {
        name: client.send("POST", "requests", ASK).status_code for name, client in world.everyone().items()
    }
    assert got == {
        "owner": 202, "mate": 202, "manager": 202, "outsider": 202, "operator": 202, "anonymous": 401,
    }  # fmt: skip


def test_a_model_of_another_project_is_not_found(world: World) -> None:
    world.model.is_public = False
    world.model.save()
    world.model.projects.add(world.project)
    refused(world.outsider.api.send("POST", "requests", ASK), 404, "model_not_found", "model")
    assert world.owner.api.send("POST", "requests", ASK).status_code == 202


def test_a_disabled_model_is_not_found(world: World) -> None:
    world.model.enabled = False
    world.model.save()
    refused(world.owner.api.send("POST", "requests", ASK), 404, "model_not_found", "model")


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"model": ""}, "model"),
        ({"api": "/v1/secrets"}, "api"),
        ({"body": []}, "body"),
        ({"body": {"messages": []}}, "messages"),
        ({"body": {**BODY, "stream": True}}, "body.stream"),
        ({"body": {**BODY, "model": "other"}}, "body.model"),
        ({"body": {**BODY, "max_tokens": -1}}, "max_tokens"),
        ({"project": "storms"}, "project"),
    ],
)
def test_a_bad_parameter_is_named(world: World, change: dict[str, Any], param: str) -> None:
    refused(world.owner.api.send("POST", "requests", ASK | change), 400, "invalid_parameter", param)


@pytest.mark.parametrize("text", ["{", "[]", '"x"', "", "[" * 5000, '{"model": NaN}', b"\xff\xfe"])
def test_a_body_that_is_no_json_object_is_refused(world: World, text: str | bytes) -> None:
    answer = world.owner.api.generic("POST", "/api/v1/requests", text, content_type="application/json")
    assert answer.status_code == 400 and answer.json()["error"]["code"] in (
        "invalid_json",
        "invalid_parameter",
    )
    assert not Request.objects.exists()


def test_a_large_body_is_taken_and_an_oversized_one_refused(world: World) -> None:
    def ask(chars: int) -> Any:
        return world.owner.api.send("POST", "requests", ASK | {"body": {"messages": [said("x" * chars)]}})

    refused(ask(config().max_body_bytes), 413, "body_too_large")
    assert ask(config().max_body_bytes // 2).status_code == 202


def test_tokens_that_do_not_let_in_are_told_apart(world: World) -> None:
    def ask(token: str) -> Any:
        return ApiClient(token).send("POST", "requests", ASK)

    user, project = world.owner.user, world.project
    refused(ApiClient().send("POST", "requests", ASK), 401, "token_missing")
    refused(ask("berth_typo"), 401, "token_malformed")
    row, minted = issue_token(user, project, "n", ["inference"])
    revoke(row)
    refused(ask(minted.text), 401, "token_revoked")
    row, minted = issue_token(user, project, "n", ["inference"])
    ApiToken.objects.filter(pk=row.pk).update(created_at="2020-01-01T00:00Z", expires_at="2020-01-02T00:00Z")
    refused(ask(minted.text), 401, "token_expired")
    row.delete()
    refused(ask(minted.text), 401, "token_unknown")
    row, minted = issue_token(user, project, "n", ["read"])
    refused(ask(minted.text), 403, "scope_missing")
    Project.objects.update(is_active=False)
    refused(ask(world.owner.token), 401, "token_disabled")
    Project.objects.update(is_active=True)
    Membership.objects.filter(user=user).delete()
    refused(ask(world.owner.token), 401, "token_revoked")


def test_a_401_says_how_to_authenticate(world: World) -> None:
    assert ApiClient().send("POST", "requests", ASK)["WWW-Authenticate"] == "Bearer"


def test_a_browser_needs_the_csrf_token(world: World) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    refused(strict.post("/api/v1/requests", ASK, content_type="application/json"), 403, "forbidden")
    strict.get("/login/")
    key = strict.cookies["csrftoken"].value
    answer = strict.post(
        "/api/v1/requests", ASK, content_type="application/json", headers={"X-CSRFToken": key}
    )
    assert answer.status_code == 202


def test_a_member_of_two_projects_says_at_the_browser_which_one_pays(world: World) -> None:
    Membership.objects.create(user=world.owner.user, project=world.other)
    refused(world.owner.browser.send("POST", "requests", ASK), 400, "invalid_parameter", "project")
    answer = world.owner.browser.send("POST", "requests", ASK | {"project": "storms"})
    assert Request.objects.get(id=answer.json()["id"]).project_id == world.other.pk


def test_an_unknown_address_answers_programs_in_their_envelope(world: World) -> None:
    for method in ("GET", "POST", "DELETE"):
        refused(world.owner.api.send(method, "nothing/here"), 404, "not_found")
    refused(world.owner.api.send("PUT", "requests", ASK), 405, "method_not_allowed")


def test_priority_passes_what_its_own_project_has_waiting(
    world: World, sent: list[tuple[str, str]], redis: redis_library.Redis
) -> None:
    low, high = (
        world.owner.api.send("POST", "requests", ASK | {"priority": priority}).json()["id"]
        for priority in (0, 1)
    )
    keys = {str(row.id): row.order_key for row in Request.objects.all()}
    second = world.mate.api.send("POST", "requests", ASK).json()["id"]
    assert keys[high] < keys[low] + 1 < Request.objects.get(id=second).order_key
    answer = world.owner.api.send("POST", "requests", ASK | {"priority": 2})
    assert answer.status_code == 400


def test_without_a_priority_the_members_usual_one_counts(world: World, sent: list[tuple[str, str]]) -> None:
    Membership.objects.filter(user=world.owner.user, project=world.project).update(priority=1)
    usual, said, mates = (
        Request.objects.get(id=asker.api.send("POST", "requests", asked).json()["id"]).priority
        for asker, asked in ((world.owner, ASK), (world.owner, ASK | {"priority": 0}), (world.mate, ASK))
    )
    assert (usual, said, mates) == (1, 0, 0)
