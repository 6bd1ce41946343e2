"""Single sign-on against a real provider: what is not believed, what leads nowhere, and what nobody else learns."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from django.test import Client
from django.urls import NoReverseMatch, reverse

from portal.accounts import sso
from portal.config import config
from portal.config.oidc import Provider
from portal.dashboard.sso import MOST_STARTS
from tests import oidc
from tests.api.sso_world import idp as idp
from tests.api.sso_world import let_in
from tests.api.sso_world import server as server
from tests.api.world import World
from tests.oidc import SECRET, Idp


@pytest.mark.parametrize("next", ["https://evil.example/", "//evil.example/", "javascript:alert(1)"])
def test_afterwards_one_stays_here(world: World, idp: Idp, next: str) -> None:
    idp.person("s-10", preferred_username="uma")
    idp.log_in(Client(), "s-10")
    let_in("uma")
    assert idp.log_in(Client(), "s-10", next=next)["Location"] == "/"


def test_a_way_back_works_once_and_in_the_browser_that_began(world: World, idp: Idp) -> None:
    idp.person("s-11", preferred_username="tia")
    browser, thief = Client(), Client()
    back = idp.decide(idp.begin(browser), "s-11")
    assert thief.get(back).status_code == 401
    assert browser.get(back).status_code == 302 and browser.get(back).status_code == 401
    assert Client().get(f"/login/with/{idp.id}/callback/?code=x&state=y").status_code == 401


def test_who_thinks_better_of_it_is_back_at_the_door(world: World, idp: Idp) -> None:
    browser = Client()
    to = idp.begin(browser)
    state = parse_qs(urlsplit(to).query)["state"][0]  # which this provider forgets when it says no
    answer = browser.get(f"{idp.decide(to, action='deny')}&state={state}")
    assert answer["Location"] == "/login/"


def test_a_provider_that_is_away_is_named(world: World, monkeypatch: pytest.MonkeyPatch, idp: Idp) -> None:
    oidc.configure(monkeypatch, Idp("http://localhost:1"))
    answer = Client().post(f"/login/with/{Idp('http://localhost:1').id}/")
    assert answer.status_code == 502 and "Campus does not respond" in answer.content.decode()


def test_a_provider_that_calls_itself_otherwise_is_not_believed(
    world: World, monkeypatch: pytest.MonkeyPatch, idp: Idp, caplog: pytest.LogCaptureFixture
) -> None:
    same = Idp(idp.issuer + "/")  # the discovery document has no slash
    oidc.configure(monkeypatch, same)
    assert Client().post(f"/login/with/{same.id}/").status_code == 502
    assert "names another issuer" in caplog.text


def test_userinfo_of_somebody_else_is_not_believed(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sso.Exchange, "_fetch_user_info", lambda self, token: {"sub": "somebody"})
    assert idp.log_in(Client(), "s-12").status_code == 401
    assert not SocialAccount.objects.exists()


GOOD = {"iss": "https://idp.example", "sub": "s", "aud": "berth", "exp": 4_000_000_000}


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "https://other.example"},
        {"aud": "other"},
        {"exp": 1},
        {"sub": ""},
        {"sub": "a\0b"},
        {"sub": "s" * 256},
        {"sub": None},
        {"azp": "other"},
    ],
)
def test_an_id_token_for_others_is_none(wrong: dict[str, Any]) -> None:
    provider = Provider("https://idp.example", "berth", SECRET)

    def read(said: dict[str, Any]) -> dict[str, Any]:
        told = {name: value for name, value in said.items() if value is not None}
        return sso._id_token(jwt.encode(told, "k" * 32), provider)

    assert read(GOOD)["sub"] == "s"
    with pytest.raises(OAuth2Error):
        read(GOOD | wrong)
    with pytest.raises(OAuth2Error):
        sso._id_token(None, provider)


def test_nothing_else_of_allauth_is_served(world: World, idp: Idp) -> None:
    browser = world.owner.browser
    for path in (
        "/accounts/",
        "/accounts/signup/",
        "/accounts/password/reset/",
        "/accounts/email/",
        "/oidc/x/login/",
    ):
        assert browser.get(path).status_code == 404, path
    for name in ("account_login", "account_signup", "socialaccount_connections", "socialaccount_signup"):
        with pytest.raises(NoReverseMatch):
            reverse(name)
    start = f"/login/with/{idp.id}/"
    assert browser.get(start).status_code == 405
    assert Client(enforce_csrf_checks=True).post(start).status_code == 403
    assert Client().post("/login/with/nobody/").status_code == 404


def test_the_secret_is_told_to_nobody_but_the_provider(
    world: World, idp: Idp, caplog: pytest.LogCaptureFixture
) -> None:
    idp.person("s-15", preferred_username="zoe", diary="canary-claim")
    browser = Client()
    idp.log_in(browser, "s-15")
    seen = caplog.text + repr(config()) + browser.get("/login/").content.decode()
    assert SECRET not in seen and SECRET not in idp.begin(browser)
    assert "canary-claim" not in caplog.text + str(SocialAccount.objects.get().extra_data)


def test_who_begins_too_often_waits(world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("portal.dashboard.sso.MOST_STARTS", 2)
    assert MOST_STARTS >= 30, "a whole lecture sits behind one address"
    start = f"/login/with/{idp.id}/"
    assert [Client().post(start).status_code for _ in range(3)] == [200, 200, 429]
    assert Client(REMOTE_ADDR="192.0.2.8").post(start).status_code == 200
