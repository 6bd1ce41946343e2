"""Who changed what: every way to change catalog, accounts and quotas, and every command, leaves a row that stays."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.contrib.auth import authenticate
from django.core.management import call_command
from django.db import InternalError, connection, transaction
from django.urls import reverse
from django.utils import timezone

from portal.accounts.issue import issue_token, revoke
from portal.accounts.models import ApiToken, Membership, Quota, User
from portal.audit.actor import acting
from portal.audit.models import Change
from portal.audit.signals import WATCHED
from portal.catalog.models import Pool, Profile
from portal.fleet.models import Command
from portal.notices.models import Webhook
from portal.redis import hints
from tests.api import world as make
from tests.api.world import FOUND, ApiClient, Person, World, candidate_row


@pytest.fixture
def world(db: None, monkeypatch: pytest.MonkeyPatch) -> World:
    for name in ("_publish", "_send_tick"):
        monkeypatch.setattr(hints, name, lambda *said: None)
    return make.build()


@pytest.fixture
def root(world: World) -> ApiClient:
    return Person(User.objects.create_superuser("root", password=None), "").browser


def last(table: str, **facts: Any) -> Change:
    found = Change.objects.filter(table=table, **facts).order_by("-id").first()
    assert found is not None, list(Change.objects.values_list("table", "action", "name"))
    return found


def test_every_table_of_accounts_and_catalog_is_watched() -> None:
    tables = {table for label in ("accounts", "catalog") for table in apps.get_app_config(label).get_models()}
    assert tables <= set(WATCHED)


def test_the_admin_says_who_and_old_and_new(root: ApiClient, world: World) -> None:
    quota = Quota.objects.create(level="project", project=world.project, queued=5)
    form = {"level": "project", "project": world.project.pk, "queued": 9}
    assert root.post(reverse("admin:accounts_quota_change", args=[quota.pk]), form).status_code == 302
    change = last("accounts.Quota")
    assert (change.who, change.origin, change.action) == ("root", "admin", "changed")
    assert change.fields == {"queued": [5, 9]} and change.name == "quota of project waves"
    root.post(reverse("admin:accounts_quota_delete", args=[quota.pk]), {"post": "yes"})
    gone = last("accounts.Quota")
    assert (gone.action, gone.key, gone.fields["project"]) == ("deleted", str(quota.pk), ["waves", None])


def test_pages_api_and_command_line_are_told_apart(world: World) -> None:
    operator = world.operator
    assert operator.api.send("POST", "commands", {"kind": "wake", "pool": "surf"}).status_code == 202
    given = last("fleet.Command")
    assert (given.who, given.origin, given.action) == ("operator", "api", "added")
    assert given.fields["kind"] == [None, "wake"] and given.fields["pool"] == [None, "surf"]
    operator.browser.post(reverse("fleet-command"), {"kind": "pause"})
    assert (last("fleet.Command").origin, last("fleet.Command").user_id) == ("page", operator.user.pk)
    with acting("command line", lambda: (None, "ada at the command line")):
        call_command("fleet", "resume")
    assert (last("fleet.Command").origin, last("fleet.Command").who) == (
        "command line",
        "ada at the command line",
    )
    before = Change.objects.count()
    Pool.objects.get().save()
    assert Change.objects.count() == before, "nothing has changed"


def test_what_the_loop_does_with_a_command_is_no_change_of_a_person(world: World) -> None:
    world.operator.api.send("POST", "commands", {"kind": "pause"})
    before = Change.objects.count()
    command = last("fleet.Command")
    done = Command.objects.get(pk=command.key)
    done.state = "done"
    done.save()
    assert Change.objects.count() == before


def test_a_catalog_file_leaves_the_same_trace(world: World, tmp_path: Path) -> None:
    file = tmp_path / "catalog.yaml"
    file.write_text("profiles: {gpu: {gpus: 2}, b: {partition: gpu}}\npools: {surf: {profiles: [b, gpu]}}")
    before = Change.objects.count()
    call_command("catalog", "apply", "--dry-run", str(file))
    assert Change.objects.count() == before
    with acting("command line", lambda: (None, "ada at the command line")):
        call_command("catalog", "apply", str(file))
    assert last("catalog.Profile", name="gpu").fields == {"gpus": [1, 2]}
    assert last("catalog.Profile", name="b").fields["partition"] == [None, "gpu"]
    assert last("catalog.Pool").fields == {"profiles": [["gpu"], ["b", "gpu"]]}
    assert set(Change.objects.order_by("-id")[:3].values_list("who", flat=True)) == {
        "ada at the command line"
    }


def test_a_webhook_leaves_a_trace_without_its_address(world: World) -> None:
    browser = world.manager.browser
    browser.post(reverse("notices-webhook"), {"url": "https://hooks.example.org/berth?key=canary"})
    change = last("notices.Webhook")
    hook = Webhook.objects.get()
    assert (change.who, change.origin, change.action) == ("manager", "page", "added")
    assert change.name == "webhook of manager"
    assert change.fields["url"] == [None, "hooks.example.org (the rest is not shown)"]
    browser.post(reverse("notices-webhook"), {"url": "https://hooks.example.org/", "project": "waves"})
    assert last("notices.Webhook").name == "webhook of waves"
    browser.post(reverse("notices-webhook"), {"do": "remove"})
    gone = last("notices.Webhook")
    assert (gone.who, gone.action, gone.key) == ("manager", "deleted", str(hook.pk))
    told = str(list(Change.objects.values_list("fields", "name")))
    assert "canary" not in told and hook.secret not in told


def test_what_managers_do_leaves_a_trace(world: World) -> None:
    browser = world.manager.browser
    page = reverse("project", args=["waves"])
    browser.post(page, {"username": "outsider", "role": "member"})
    added = last("accounts.Membership", action="added")
    assert (added.who, added.origin, added.name) == ("manager", "page", "outsider in waves")
    row = Membership.objects.get(user=world.mate.user)
    browser.post(reverse("project-member", args=["waves", row.pk]), {"role": "manager"})
    changed = last("accounts.Membership", action="changed")
    assert (changed.who, changed.fields) == ("manager", {"role": ["member", "manager"]})
    token = ApiToken.objects.get(user=world.owner.user)
    browser.post(reverse("project-token", args=["waves", token.pk]))
    assert (last("accounts.ApiToken").who, list(last("accounts.ApiToken").fields)) == (
        "manager",
        ["revoked_at"],
    )
    browser.post(reverse("project-member", args=["waves", row.pk]), {"role": "none"})
    assert (last("accounts.Membership").action, last("accounts.Membership").who) == ("deleted", "manager")
    assert (last("accounts.ApiToken").who, last("accounts.ApiToken").key) == (
        "manager",
        str(ApiToken.objects.get(user=world.mate.user).pk),
    )


def test_a_token_of_ones_own_leaves_a_trace(world: World) -> None:
    form = {"name": "laptop", "project": "waves", "scopes": ["read"], "days": 30}
    assert world.owner.browser.post(reverse("tokens"), form).status_code in (200, 302)
    made = last("accounts.ApiToken", action="added", who="owner")
    assert made.origin == "page" and "digest" in made.fields and made.fields["digest"][1] == "(not shown)"
    world.owner.browser.post(reverse("token-revoke", args=[made.key]))
    assert (last("accounts.ApiToken").key, last("accounts.ApiToken").action) == (made.key, "changed")


def test_a_model_that_is_registered_and_approved_leaves_a_trace(world: World) -> None:
    candidate = candidate_row(world)
    manager, operator = world.manager.browser, world.operator.browser
    manager.post(reverse("register-again", args=[candidate.pk]))
    assert (last("fleet.Command").who, last("fleet.Command").fields["kind"]) == ("manager", [None, "inspect"])
    candidate.found, candidate.found_at = FOUND, timezone.now()
    candidate.save()
    form = {
        "environment": "echo", "gpus": 1, "mem_mb": 500, "cap": 4, "context_tokens": 4096,
        "load_estimate_s": 60, "keep_alive_s": 60, "description": "",
    }  # fmt: skip
    answer = manager.post(reverse("register-one", args=[candidate.pk]), form)
    assert answer.status_code == 302, answer.content.decode()
    for table in ("catalog.Pool", "catalog.Model"):
        assert last(table, action="added").who == "manager"
    assert last("catalog.Model", action="added").fields["enabled"] == [None, False]
    operator.post(reverse("register-approve", args=[candidate.pk]))
    approved = last("catalog.Model", action="changed", fields__has_key="enabled")
    assert (approved.who, approved.fields) == ("operator", {"enabled": [False, True]})


def test_no_secret_is_recorded(world: World) -> None:
    user = world.owner.user
    user.set_password("correct horse battery")
    user.save()
    assert last("accounts.User").fields == {"password": ["(not shown)", "(not shown)"]}
    row, minted = issue_token(user, world.project, "notebook", ["read"])
    revoke(row)
    revoked = last("accounts.ApiToken")
    assert list(revoked.fields) == ["revoked_at"] and revoked.fields["revoked_at"][0] is None
    told = str(list(Change.objects.values_list("fields", "name")))
    for secret in (minted.text, row.digest, user.password, "correct horse"):
        assert secret not in told
    before = Change.objects.count()
    assert authenticate(username="owner", password="correct horse battery")
    ApiToken.objects.filter(pk=row.pk).update(last_used_at=None)
    assert Change.objects.count() == before, "a log-in or a token's use is no change"


def test_who_goes_leaves_what_they_did(world: World) -> None:
    pk = world.mate.user.pk
    world.mate.user.delete()
    assert last("accounts.User", action="deleted").key == str(pk)
    assert last("accounts.Membership", action="deleted").name == "mate in waves"
    Membership.objects.filter(user=world.owner.user).delete()
    assert last("accounts.Membership", action="deleted").name == "owner in waves"


@pytest.mark.parametrize(
    "sql", ["UPDATE audit_change SET who = 'x'", "DELETE FROM audit_change", "TRUNCATE audit_change"]
)
def test_the_database_lets_nobody_change_it(world: World, sql: str) -> None:
    before = Change.objects.count()
    with pytest.raises(InternalError, match="append-only"), transaction.atomic(), connection.cursor() as cur:
        cur.execute(sql)
    assert Change.objects.count() == before > 0


def test_administrators_search_it_and_nobody_writes_it(root: ApiClient, world: World) -> None:
    world.profile.gpus = 3
    world.profile.save()
    pages = reverse("admin:audit_change_changelist")
    page = root.get(pages, {"q": world.profile.name, "table": "catalog.Profile"}).content.decode()
    assert "gpus: 1 → 3" in page and "Berth" in page and "surf" not in page
    assert "gpus: 1 → 3" in root.get(pages, {"q": str(world.profile.pk)}).content.decode()
    assert "gpus: 1 → 3" not in root.get(pages, {"q": "nothing of that name"}).content.decode()
    change = last("catalog.Profile")
    assert root.post(reverse("admin:audit_change_change", args=[change.pk]), {"who": "x"}).status_code == 403
    assert root.get(reverse("admin:audit_change_add")).status_code == 403
    assert Profile.objects.get().gpus == 3
