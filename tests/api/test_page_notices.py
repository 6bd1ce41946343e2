"""The Notices page: my mail by kind, my webhook and those of the projects I manage, and nobody else's."""

from __future__ import annotations

import re
import time
from datetime import datetime, timedelta
from html import unescape
from typing import Any
from uuid import uuid4

import pytest
from django.test import Client
from django.utils import timezone

from portal.accounts.models import User
from portal.notices.models import Delivery, OptOut, Webhook
from portal.notices.post import signature
from tests.api.world import Person, World

URL = "https://hooks.example.org/berth?key=canary"


def set_hook(person: Person, url: str = URL, **more: str) -> Any:
    return person.browser.post("/notices/webhook", {"url": url, "do": "set"} | more, follow=True)


def test_who_ticks_gets_and_who_does_not_gets_none(world: World) -> None:
    page = world.owner.browser.get("/notices/").content.decode()
    assert "batch_ended" in page and "model_latched" not in page
    assert "model_latched" in world.operator.browser.get("/notices/").content.decode()
    world.owner.browser.post("/notices/mail", {"kind": ["model_ready"]})
    silent = set(OptOut.objects.filter(user=world.owner.user).values_list("kind", flat=True))
    assert "batch_ended" in silent and "model_ready" not in silent
    assert not OptOut.objects.exclude(user=world.owner.user).exists()
    world.owner.browser.post("/notices/mail", {"kind": ["model_ready", "batch_ended"]})
    assert not OptOut.objects.filter(kind="batch_ended").exists()


def test_who_becomes_an_operator_declined_nothing_of_theirs(world: World) -> None:
    world.owner.browser.post("/notices/mail", {"kind": ["model_ready"]})
    User.objects.filter(pk=world.owner.user.pk).update(is_operator=True)
    page = world.owner.browser.get("/notices/").content.decode()
    assert re.search(r'value="model_latched" checked', page) and not re.search(
        r'value="batch_ended" checked', page
    )
    world.owner.browser.post("/notices/mail", {"kind": ["model_ready"]})
    assert OptOut.objects.filter(user=world.owner.user, kind="model_latched").exists()


def test_a_webhook_is_set_changed_and_removed(world: World) -> None:
    set_hook(world.owner)
    first = Webhook.objects.get()
    assert first.user == world.owner.user and first.url == URL
    page = world.owner.browser.get("/notices/")
    assert first.secret in page.content.decode() and "no-store" in page["Cache-Control"]
    set_hook(world.owner, "https://other.example.org/")
    assert Webhook.objects.get().secret != first.secret
    set_hook(world.owner, do="remove")
    assert not Webhook.objects.exists()


def test_the_example_that_checks_a_notice_works(world: World) -> None:
    set_hook(world.owner)
    page = world.owner.browser.get("/notices/").content.decode()
    found = re.search(r'<pre class="log">(import hashlib.*?)</pre>', page, re.DOTALL)
    assert found
    example: dict[str, Any] = {}
    exec(unescape(found[1]), example)  # as somebody would paste it
    secret, now = Webhook.objects.get().secret, int(time.time())
    is_ours = example["is_ours"]
    assert is_ours(signature(secret, now, b"{}"), b"{}", secret)
    assert not is_ours(signature(secret, now, b"{}"), b"{ }", secret)
    assert not is_ours(signature(secret, now - 3600, b"{}"), b"{}", secret)
    assert not is_ours(signature("other", now, b"{}"), b"{}", secret)


def test_nobody_else_sees_or_changes_it(world: World) -> None:
    set_hook(world.owner)
    for who in (world.mate, world.manager, world.operator, world.outsider):
        page = who.browser.get("/notices/").content.decode()
        assert URL not in page and Webhook.objects.get().secret not in page
        set_hook(who, do="remove")
    assert Webhook.objects.get().user == world.owner.user


def test_a_projects_webhook_is_its_managers(world: World) -> None:
    for who in (world.owner, world.outsider, world.operator):
        assert set_hook(who, project="waves").status_code == 404
    set_hook(world.manager, project="waves")
    assert Webhook.objects.get().project == world.project
    assert URL in world.manager.browser.get("/notices/").content.decode().replace("&amp;", "&")
    assert "example.org" not in world.owner.browser.get("/notices/").content.decode()


@pytest.mark.parametrize("url", ["http://hooks.example.org/", "https://me:pw@hooks.example.org/", "nonsense"])
def test_what_cannot_be_called_is_said_at_once(world: World, url: str) -> None:
    answer = set_hook(world.owner, url)
    page = unescape(answer.content.decode())
    assert answer.status_code == 422 and not Webhook.objects.exists()
    assert f'value="{url}" aria-invalid="true"' in " ".join(page.split()) and 'class="wrong"' in page, (
        "to be mended, not typed anew"
    )


def test_what_was_typed_wrongly_stands_at_its_project(world: World) -> None:
    page = set_hook(world.manager, "nonsense", project="waves").content.decode()
    assert page.count("nonsense") == 1 and 'aria-describedby="url-waves_error"' in page


def test_a_test_is_sent_once_a_minute(world: World) -> None:
    set_hook(world.owner)
    for _ in range(3):
        set_hook(world.owner, do="try")
    assert 1 <= Delivery.objects.count() <= 2
    assert "A test" in world.owner.browser.get("/notices/").content.decode()


def delivery(hook: Webhook, state: str, ended_at: datetime | None = None, **fields: Any) -> Delivery:
    now = timezone.now()
    return Delivery.objects.create(
        key=str(uuid4()), kind="batch_ended", webhook=hook, subject="Batch 7 is finished", text="", state=state,
        next_at=now, created_at=now, ended_at=None if state == "pending" else ended_at or now, **fields,
    )  # fmt: skip


def test_what_was_given_up_is_shown_to_whose_it_is(world: World) -> None:
    set_hook(world.manager)
    set_hook(world.manager, project="waves")
    mine, projects = Webhook.objects.get(project=None), Webhook.objects.get(user=None)
    long_ago = timezone.now() - timedelta(days=2)
    delivery(mine, "failed", long_ago, attempts=6, error="It answered 500.")
    delivery(mine, "sent", long_ago + timedelta(days=1))

    def page(who: Person) -> str:
        return " ".join(who.browser.get("/notices/").content.decode().split())

    assert "dropped, the last one" not in page(world.manager), "it took one since"
    delivery(projects, "failed", attempts=6, error="It does not answer: TimeoutError")
    delivery(projects, "failed", attempts=1, error="This is not a URL.")
    delivery(projects, "pending", attempts=2, error="It answered 503.")
    shown = page(world.manager)
    assert "2 notices could not be delivered and were dropped, the last one" in shown
    assert shown.count("dropped, the last one") == 1
    assert "webhook of waves" in shown and "It does not answer: TimeoutError" in shown
    assert "Given up after 6 attempts." in shown and "Given up after 1 attempt." in shown
    assert "2 attempts; the next at" in shown
    for other in (world.owner, world.outsider, world.operator):
        assert "given up" not in page(other) and "Batch 7" not in page(other)


def test_who_cannot_be_told_is_told_that(world: World) -> None:
    page = world.owner.browser.post("/models/surf/wake", {"notify": "1"}, follow=True).content.decode()
    assert "cannot be notified yet" in page
    set_hook(world.owner)
    page = world.owner.browser.post("/models/surf/wake", {"notify": "1"}, follow=True).content.decode()
    assert "You will be notified when it is ready" in page


def test_buttons_are_pressed_here_and_not_on_another_site(world: World) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    assert strict.post("/notices/webhook", {"url": URL}).status_code == 403
    assert strict.post("/notices/mail", {}).status_code == 403
