"""Single sign-on against a real provider: who a person is, who may come, what claims give, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlsplit

import jwt
import pytest
import redis as redis_library
from allauth.socialaccount.models import SocialAccount
from allauth.socialaccount.providers.oauth2.client import OAuth2Error
from django.test import Client
from django.urls import NoReverseMatch, reverse

from portal.accounts import sso
from portal.accounts.models import ClaimRule, Membership, User
from portal.config import config
from portal.dashboard.sso import MOST_STARTS
from portal.oidc import Provider
from tests import oidc
from tests.api.world import PASSWORD, World
from tests.oidc import SECRET, Idp


@pytest.fixture(scope="module")
def server() -> Iterator[Idp]:
    with oidc.running() as idp:
        yield idp


@pytest.fixture
def idp(server: Idp, monkeypatch: pytest.MonkeyPatch, redis: redis_library.Redis) -> Iterator[Idp]:
    oidc.configure(monkeypatch, server)
    yield server
    monkeypatch.undo()
    config.cache_clear()


def who(browser: Client) -> str:
    """Who is logged in, "" for nobody."""
    key = browser.session.get("_auth_user_id")
    return User.objects.get(pk=key).username if key else ""


def let_in(name: str) -> None:
    user = User.objects.get(username=name)
    user.is_active = True
    user.save()


def test_who_is_unknown_waits_until_somebody_lets_them_in(world: World, idp: Idp) -> None:
    idp.person("s-1", preferred_username="ada", email="ada@example.org", name="Ada L.")
    browser = Client()
    answer = idp.log_in(browser, "s-1", next="/tokens/")
    assert answer["Location"] == "/login/waiting/" and who(browser) == ""
    page = browser.get("/login/waiting/").content.decode()
    assert "waits for approval" in page and "ada" in page
    assert browser.get("/")["Location"] == "/login/?next=/"
    assert idp.log_in(Client(), "s-1")["Location"] == "/login/waiting/"  # still the one account
    user = User.objects.get(username="ada")
    assert (user.is_active, user.is_pending, user.has_usable_password()) == (False, True, False)
    assert (user.email, user.first_name, user.projects.count()) == ("ada@example.org", "Ada", 0)

    root = Client()
    root.force_login(User.objects.create_superuser("root", password=None))
    root.post("/admin/accounts/user/", {"action": "let_in", "_selected_action": [user.pk]})
    answer = idp.log_in(browser, "s-1", next="/tokens/")
    assert answer["Location"] == "/tokens/" and who(browser) == "ada"
    assert browser.get("/login/waiting/")["Location"] == "/"


def test_who_was_closed_out_is_told_so(world: World, idp: Idp) -> None:
    idp.person("s-2", preferred_username="bob")
    browser = Client()
    idp.log_in(browser, "s-2")
    User.objects.filter(username="bob").update(is_pending=False)
    idp.log_in(browser, "s-2")
    assert "was closed" in browser.get("/login/waiting/").content.decode() and who(browser) == ""


def test_an_email_address_identifies_nobody(world: World, idp: Idp) -> None:
    User.objects.filter(pk=world.owner.user.pk).update(email="owner@example.org")
    idp.person("s-3", email="owner@example.org", email_verified=True, preferred_username="owner")
    idp.log_in(Client(), "s-3")
    (new,) = SocialAccount.objects.all()
    assert new.user != world.owner.user and new.user.username == "owner2"
    let_in("owner2")
    idp.person("s-3", email="new@example.org", email_verified=True)
    browser = Client()
    idp.log_in(browser, "s-3")
    assert who(browser) == "owner2", "an address that changes changes nobody"
    assert User.objects.get(username="owner2").email == "new@example.org", "but it is where mail goes"
    idp.person("s-4", email="new@example.org", email_verified=True)
    idp.log_in(Client(), "s-4")
    assert SocialAccount.objects.count() == 2, "another subject with the same address is another person"


def test_one_subject_at_two_issuers_is_two_people(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    with oidc.running() as other:
        oidc.configure(monkeypatch, other, number="2", NAME="Elsewhere")
        page = Client().get("/login/").content.decode()
        assert "Log in with Campus" in page and "Log in with Elsewhere" in page
        for place in (idp, other):
            place.person("s-5", preferred_username=f"at{place.issuer[-5:]}")
            place.log_in(Client(), "s-5")
        assert {row.provider for row in SocialAccount.objects.filter(uid="s-5")} == {idp.id, other.id}
        assert User.objects.filter(is_pending=True).count() == 2
        # A way back to one provider is none to the other.
        browser = Client()
        back = idp.decide(idp.begin(browser), "s-5")
        assert browser.get(back.replace(idp.id, other.id)).status_code == 401


@pytest.mark.parametrize(
    ("claims", "status"),
    [({"idp": "https://good.edu/idp"}, 302), ({"idp": "https://bad.edu"}, 403), ({}, 403)],
)
def test_of_a_federation_only_the_listed_ones(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch, claims: dict[str, str], status: int
) -> None:
    oidc.configure(monkeypatch, idp, IDPS="https://other.edu, https://good.edu/idp")
    idp.person("s-6", **claims)
    answer = idp.log_in(Client(), "s-6")
    assert answer.status_code == status
    assert SocialAccount.objects.exists() == (status == 302)
    if status == 403:
        assert claims.get("idp", "an unnamed one") in answer.content.decode()


def test_a_claim_gives_projects_and_takes_back_what_it_gave(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc.configure(monkeypatch, idp, PROJECTS_CLAIM="realm.groups")
    ClaimRule.objects.create(value="surfers", project=world.project, role="manager")
    ClaimRule.objects.create(value="surfers", project=world.other, issuer="https://elsewhere.example")
    idp.person("s-7", preferred_username="kai", realm={"groups": ["surfers", "x"]})
    browser = Client()
    assert idp.log_in(browser, "s-7")["Location"] == "/" and who(browser) == "kai"
    kai = User.objects.get(username="kai")
    assert [(row.project, row.role) for row in Membership.objects.filter(user=kai)] == [
        (world.project, "manager")
    ]
    Membership.objects.create(user=kai, project=world.other)
    idp.person("s-7", realm={"groups": []})
    idp.log_in(browser, "s-7")
    assert [row.project for row in Membership.objects.filter(user=kai)] == [world.other]
    # Closed out, no claim lets in again.
    User.objects.filter(pk=kai.pk).update(is_active=False)
    idp.person("s-7", realm={"groups": ["surfers"]})
    assert idp.log_in(Client(), "s-7")["Location"] == "/login/waiting/"
    assert not User.objects.get(pk=kai.pk).is_active


def test_who_waits_is_let_in_when_a_claim_gives_a_project(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    oidc.configure(monkeypatch, idp, PROJECTS_CLAIM="groups")
    idp.person("s-8", preferred_username="lei", groups="surfers")
    browser = Client()
    idp.log_in(browser, "s-8")
    assert who(browser) == ""
    ClaimRule.objects.create(value="surfers", project=world.project)
    idp.log_in(browser, "s-8")
    assert who(browser) == "lei"


def test_a_claim_makes_operators_only_where_it_is_set(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch
) -> None:
    idp.person("s-9", preferred_username="noa", groups=["ops"])
    idp.log_in(Client(), "s-9")
    noa = User.objects.filter(username="noa")
    assert not noa.get().is_operator
    oidc.configure(monkeypatch, idp, OPERATORS="groups=ops")
    idp.log_in(Client(), "s-9")
    assert noa.get().is_operator and not noa.get().is_active and not noa.get().is_superuser
    idp.person("s-9", groups=[])
    idp.log_in(Client(), "s-9")
    assert not noa.get().is_operator


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
    assert answer.status_code == 502 and "Campus does not answer" in answer.content.decode()


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


def test_who_is_logged_in_and_comes_as_another_is_the_other(world: World, idp: Idp) -> None:
    """Never both: an identity cannot be hung on an account that exists."""
    idp.person("s-13", preferred_username="eve")
    idp.log_in(Client(), "s-13")
    let_in("eve")
    browser = world.owner.browser
    to = idp.begin(browser)
    browser.get(idp.decide(to + "&process=connect", "s-13") + "&process=connect")
    assert who(browser) == "eve"
    assert [row.user.username for row in SocialAccount.objects.all()] == ["eve"]


def test_the_session_is_a_new_one_and_dies_at_the_log_out(world: World, idp: Idp) -> None:
    idp.person("s-14", preferred_username="mia")
    idp.log_in(Client(), "s-14")
    let_in("mia")
    browser = Client()
    to = idp.begin(browser)
    before = browser.cookies["sessionid"].value
    browser.get(idp.decide(to, "s-14"))
    after = browser.cookies["sessionid"].value
    assert who(browser) == "mia" and before != after
    browser.post("/logout/")
    thief = Client()
    thief.cookies["sessionid"] = after
    assert thief.get("/").status_code == 302


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


def test_without_local_log_in_administrators_keep_theirs(
    world: World, idp: Idp, monkeypatch: pytest.MonkeyPatch, settings: Any
) -> None:
    settings.PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
    monkeypatch.setenv("BERTH_LOCAL_LOGIN", "false")
    config.cache_clear()
    world.operator.user.set_password(PASSWORD)
    world.operator.user.save()
    User.objects.create_superuser("root", password=PASSWORD)
    for name, enters in (("operator", False), ("root", True)):
        browser = Client()
        answer = browser.post("/login/", {"username": name, "password": PASSWORD})
        assert (who(browser) == name) == enters and (answer.status_code == 302) == enters
    assert "Administrators, with a password" in Client().get("/login/").content.decode()
