"""Single sign-on against a real provider: who a person is, who may come, what claims give, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from allauth.socialaccount.models import SocialAccount
from django.test import Client

from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, ClaimRule, Membership, User
from portal.config import config
from tests import oidc
from tests.api.sso_world import idp as idp
from tests.api.sso_world import let_in, who
from tests.api.sso_world import server as server
from tests.api.world import PASSWORD, World
from tests.oidc import Idp


def test_who_is_unknown_waits_until_somebody_lets_them_in(world: World, idp: Idp) -> None:
    idp.person("s-1", preferred_username="ada", email="ada@example.org", name="Ada L.")
    browser = Client()
    answer = idp.log_in(browser, "s-1", next="/tokens/")
    assert answer["Location"] == "/login/waiting/" and who(browser) == ""
    page = browser.get("/login/waiting/").content.decode()
    assert "waiting for approval" in page and "ada" in page
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
    assert "has closed the account" in browser.get("/login/waiting/").content.decode() and who(browser) == ""


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
    tokens = [issue_token(kai, project, "laptop", ["read"])[0] for project in (world.project, world.other)]
    idp.person("s-7", realm={"groups": []})
    idp.log_in(browser, "s-7")
    assert [ApiToken.objects.get(pk=token.pk).revoked_at is None for token in tokens] == [False, True]
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
    assert "Administrators: log in with a password" in Client().get("/login/").content.decode()
