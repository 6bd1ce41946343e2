"""The playground's page and its token: who gets one, for which project, and when it ends."""

from __future__ import annotations

from datetime import timedelta

from django.test import Client
from django.utils import timezone

from portal.accounts.issue import issue_token
from portal.accounts.models import ApiToken, Membership
from tests.api.world import ApiClient, World, another_model

TOKEN = "/playground/token"
LIVE = {"revoked_at": None, "name": "Playground"}


def test_the_page_offers_the_language_models_of_one_project(world: World) -> None:
    another_model(world, "vision", kind="dnn")
    closed = another_model(world, "turf", is_public=False)
    closed.projects.add(world.other)
    page = world.owner.browser.get("/playground/").content.decode()
    assert '<option value="surf" selected>surf · Not loaded</option>' in page
    assert "vision" not in page and "turf" not in page and 'data-project="waves"' in page
    Membership.objects.create(user=world.owner.user, project=world.other)
    page = world.owner.browser.get("/playground/?project=storms&model=turf").content.decode()
    assert '<option value="turf" selected>' in page and 'data-project="storms"' in page
    assert Client().get("/playground/")["Location"] == "/login/?next=/playground/"


def test_who_belongs_to_no_project_is_told(world: World) -> None:
    Membership.objects.all().delete()
    page = world.owner.browser.get("/playground/").content.decode()
    assert "You belong to no project yet" in page and "<textarea" not in page


def test_the_token_asks_models_for_an_hour_and_no_more(world: World) -> None:
    answer = world.owner.browser.post(TOKEN, {"project": "waves"})
    assert answer.status_code == 200 and "no-store" in answer["Cache-Control"]
    assert answer.json()["expires_in_s"] == 3600
    token = ApiToken.objects.get(**LIVE)
    assert (token.user, token.project, token.scopes) == (world.owner.user, world.project, ["inference"])
    assert token.expires_at <= timezone.now() + timedelta(hours=1)
    program = ApiClient(answer.json()["token"])
    assert program.send("GET", "models").status_code == 200
    assert program.send("GET", "fleet").status_code == 403


def test_a_token_is_for_the_session_that_asks_here_and_for_a_project_of_its_own(world: World) -> None:
    assert world.owner.browser.post(TOKEN, {"project": "storms"}).status_code == 404
    assert world.operator.browser.post(TOKEN, {"project": "waves"}).status_code == 404
    assert world.owner.browser.post(TOKEN).status_code == 404
    assert world.owner.browser.get(TOKEN).status_code == 405
    assert world.owner.api.post(TOKEN, {"project": "waves"}).status_code == 302, "a token makes no token"
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    assert strict.post(TOKEN, {"project": "waves"}).status_code == 403
    assert not ApiToken.objects.filter(**LIVE).exists()


def test_log_out_ends_the_pages_tokens_and_no_others(world: World) -> None:
    own, _ = issue_token(world.owner.user, world.project, "Playground", ["inference"], 1)
    for who in (world.owner, world.mate):
        client = who.browser
        client.post(TOKEN, {"project": "waves"})
        if who is world.owner:
            client.post("/logout/")
    left = ApiToken.objects.filter(**LIVE).order_by("pk")
    assert [token.user for token in left] == [world.owner.user, world.mate.user] and left[0] == own


def test_only_so_many_live_at_once_and_the_oldest_goes(world: World) -> None:
    own, _ = issue_token(world.owner.user, world.project, "Playground", ["inference"], 1)
    client = world.owner.browser
    texts = [client.post(TOKEN, {"project": "waves"}).json()["token"] for _ in range(6)]
    works = [ApiClient(text).send("GET", "models").status_code == 200 for text in texts]
    assert works == [False, False, True, True, True, True]
    own.refresh_from_db()
    assert own.revoked_at is None
