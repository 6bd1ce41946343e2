"""Logging in: guesses are slowed down without harm to anybody else, and the session is a new one."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest
import redis as redis_library
from django.test import Client

from portal.accounts import throttle
from portal.accounts.models import User
from tests.api.world import PASSWORD, World

HERE, ELSEWHERE = "192.0.2.7", "192.0.2.8"
NEW = "a harbour at low tide"


@pytest.fixture(autouse=True)
def quick(settings: Any, redis: redis_library.Redis) -> None:
    """Forget the counts of earlier tests, and use passwords that cost nothing to check."""
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]


@pytest.fixture
def people(world: World, quick: None) -> World:
    for person in (world.owner, world.mate, world.operator):
        person.user.set_password(PASSWORD)
        person.user.save()
    return world


def attempt(name: str, password: str = "wrong", address: str = HERE) -> Any:
    return Client(REMOTE_ADDR=address).post("/login/", {"username": name, "password": password})


def guess(name: str, times: int = throttle.MOST_ATTEMPTS) -> None:
    for _ in range(times):
        assert attempt(name).status_code == 200


def test_who_guesses_is_told_to_wait_and_for_how_long(people: World) -> None:
    guess("owner")
    answer = attempt("owner", PASSWORD)  # the right one does not help any more
    assert answer.status_code == 429
    assert 0 < int(answer["Retry-After"]) <= throttle.WINDOW_S
    assert "Try again in 1" in answer.content.decode() and "do not match" not in answer.content.decode()
    assert "_auth_user_id" not in answer.client.session


@pytest.mark.parametrize("name", ["OWNER", " owner", "owner "])
def test_another_spelling_of_the_name_is_the_same_name(people: World, name: str) -> None:
    guess("owner")
    assert attempt(name).status_code == 429


def test_nobody_else_waits(people: World) -> None:
    guess("owner")
    assert attempt("owner", PASSWORD, ELSEWHERE).status_code == 302
    assert attempt("mate", PASSWORD).status_code == 302


def test_names_that_do_not_exist_are_treated_alike(people: World) -> None:
    guess("nobody")
    assert attempt("nobody").status_code == 429


def test_a_right_password_clears_the_count(people: World) -> None:
    guess("owner", throttle.MOST_ATTEMPTS - 1)
    assert attempt("owner", PASSWORD).status_code == 302
    guess("owner")


def test_the_wait_ends(people: World, redis: redis_library.Redis) -> None:
    guess("owner")
    (key,) = redis.keys("*login:" + "?" * 64)
    assert 0 < redis.ttl(key) <= throttle.WINDOW_S
    redis.delete(key)
    assert attempt("owner", PASSWORD).status_code == 302


def test_without_redis_one_can_log_in(people: World, settings: Any) -> None:
    away = "redis://127.0.0.1:1/0"
    settings.CACHES = {"default": settings.CACHES["default"] | {"LOCATION": away}}
    assert attempt("owner", PASSWORD).status_code == 302


def test_the_admin_has_no_door_of_its_own(people: World) -> None:
    User.objects.filter(username="operator").update(is_staff=True)
    answer = Client().post("/admin/login/", {"username": "operator", "password": PASSWORD})
    assert answer.status_code in (302, 405) and "_auth_user_id" not in answer.client.session
    answer = Client().get("/admin/", follow=True)
    assert answer.redirect_chain[-1][0] == "/login/?next=%2Fadmin%2F"


def test_who_may_not_open_the_admin_is_told_so(people: World) -> None:
    assert "may not open that page" in people.owner.browser.get("/admin/", follow=True).content.decode()


def test_a_session_from_before_the_log_in_is_worth_nothing_after_it(people: World) -> None:
    client = Client()
    session = client.session
    session["theirs"] = 1
    session.save()
    planted = session.session_key
    assert planted is not None
    client.cookies["sessionid"] = planted
    assert client.post("/login/", {"username": "owner", "password": PASSWORD}).status_code == 302
    assert client.cookies["sessionid"].value != planted
    cookie = client.cookies["sessionid"]
    assert cookie["httponly"] and cookie["samesite"] == "Lax" and cookie["max-age"] == 7 * 86_400


def test_behind_https_cookies_are_bound_to_the_host() -> None:
    names = ("SESSION_COOKIE_NAME", "SESSION_COOKIE_SECURE", "CSRF_COOKIE_NAME")
    look = f"from django.conf import settings; print(*(getattr(settings, name) for name in {names}))"
    done = subprocess.run(
        [sys.executable, "-c", look],
        env=os.environ | {"BERTH_SECURE_COOKIES": "true", "DJANGO_SETTINGS_MODULE": "portal.settings"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["__Host-sessionid", "True", "__Host-csrftoken"]


def change(browser: Any, old: str, new: str, again: str | None = None) -> Any:
    asked = {"old_password": old, "new_password1": new, "new_password2": new if again is None else again}
    return browser.post("/password/", asked)


def test_a_password_is_changed_by_whoever_knows_the_old_one(people: World) -> None:
    here, there = Client(REMOTE_ADDR=HERE), Client(REMOTE_ADDR=ELSEWHERE)
    for browser in (here, there):
        assert browser.post("/login/", {"username": "owner", "password": PASSWORD}).status_code == 302
    for old, new, again, said in (
        ("wrong", NEW, NEW, "old password was entered incorrectly"),
        (PASSWORD, "short", "short", "at least 12 characters"),
        (PASSWORD, NEW, NEW + "x", "match"),
    ):
        answer = change(here, old, new, again)
        assert answer.status_code == 422 and said in answer.content.decode()
    assert attempt("owner", PASSWORD, ELSEWHERE).status_code == 302
    assert change(here, PASSWORD, NEW).status_code == 302
    assert "Your password is changed" in here.get("/").content.decode()
    assert there.get("/").headers["Location"].startswith("/login/")
    assert attempt("owner", PASSWORD).status_code == 200 and attempt("owner", NEW).status_code == 302


def test_who_guesses_at_the_old_password_waits(people: World) -> None:
    browser = Client(REMOTE_ADDR=HERE)
    browser.force_login(people.owner.user)
    for _ in range(throttle.MOST_ATTEMPTS):
        assert change(browser, "wrong", NEW).status_code == 422
    answer = change(browser, PASSWORD, NEW)
    assert answer.status_code == 429 and int(answer.headers["Retry-After"]) > 0
    assert "Too many failed attempts" in answer.content.decode()
    assert attempt("owner", PASSWORD, ELSEWHERE).status_code == 302


def test_whom_an_identity_provider_knows_has_no_password_to_change(world: World) -> None:
    assert (
        "which keeps your password: change it there" in world.owner.browser.get("/password/").content.decode()
    )
    assert change(world.owner.browser, "", NEW).status_code == 403
    assert not User.objects.get(username="owner").has_usable_password()
