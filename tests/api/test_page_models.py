"""The models' page: what each person may use and how ready it is, the button that starts one, and the examples."""

from __future__ import annotations

import html
import re
from collections.abc import Callable

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from portal.accounts.models import Membership
from portal.catalog.models import Model, Pool, Profile
from portal.fleet.models import Command, PoolState
from tests.api.world import World, another_model, pilot_row, replica_row, request_row

WAKE = "/models/surf/wake"


def text(client: Client, path: str = "/") -> str:
    answer = client.get(path)
    assert answer.status_code == 200, (path, answer.status_code)
    return str(answer.content.decode())


def _hot(world: World) -> None:
    replica_row(world, pilot_row(world))


def _starting(world: World) -> None:
    replica_row(world, pilot_row(world), state="starting", hot_at=None, started_at=timezone.now())


def _latched(world: World) -> None:
    PoolState.objects.create(pool=world.pool, latched_at=timezone.now(), reason="config.json is missing")


@pytest.mark.parametrize(
    ("scene", "said"),
    [
        (_hot, ["Ready", "Loaded and ready."]),
        (_starting, ["Starting", "≈ "]),
        (lambda world: None, ["Not loaded", "the first request starts it", ">Start<"]),
        (_latched, ["Unavailable", "config.json is missing"]),
    ],
)
def test_a_model_says_how_ready_it_is_and_only_a_cold_one_can_be_started(
    world: World, scene: Callable[[World], None], said: list[str]
) -> None:
    scene(world)
    for path in ("/", "/fragments/home"):
        page = text(world.owner.browser, path)
        assert not [words for words in said if words not in page]
        assert ("<button>Start<" in page) == (">Start<" in said)
        assert (f'action="{WAKE}"' in page) == (">Start<" in said or "Starting" in page)


def test_the_example_is_of_a_model_that_answers_soonest(world: World) -> None:
    """The first by name is latched, the second could be started."""
    for name in ("a-latched-one", "cold"):
        pool = Pool.objects.create(name=name, environment=world.pool.environment)
        Model.objects.create(name=name, pool=pool)
    PoolState.objects.create(
        pool_id="a-latched-one", latched_at=timezone.now(), reason="config.json is missing"
    )
    assert "Use <code>cold</code>" in text(world.owner.browser)
    assert '<option value="cold" selected>' in text(world.owner.browser, "/playground/")
    _hot(world)
    assert "Use <code>surf</code>" in text(world.owner.browser)
    assert '<option value="surf" selected>' in text(world.owner.browser, "/playground/")


def test_a_person_sees_the_models_of_own_projects_and_their_facts(world: World) -> None:
    Pool.objects.update(gpus=2)
    Model.objects.filter(name="surf").update(context_tokens=32768, description="For <waves>.")
    closed = another_model(world, "deep/blue", is_public=False)
    closed.projects.add(world.other)
    mine, others = text(world.owner.browser), text(world.outsider.browser)
    assert "32768 tokens" in mine and "2 GPUs" in mine
    assert "For &lt;waves&gt;." in mine
    assert "deep/blue" not in mine and "/models/deep/blue/wake" in others and "?use=deep%2Fblue#use" in others


def test_the_cost_is_told_beside_the_cheapest_of_the_site(world: World) -> None:
    assert "GPU hour" not in text(world.owner.browser), "all cost the same"
    cheap = Profile.objects.create(name="old", partition="old", cost=0.4)
    assert "2.5 × the lowest cost per GPU-hour" in text(world.owner.browser)
    world.pool.profiles.add(cheap)
    page = text(world.owner.browser)
    assert "lowest cost per GPU-hour" in page and "×" not in page


def test_ones_requests_are_not_here(world: World) -> None:
    row = request_row(world)
    assert str(row.id) not in text(world.owner.browser)


def test_starting_a_model_writes_a_command_and_goes_back(world: World, sent: list[tuple[str, str]]) -> None:
    answer = world.owner.browser.post(WAKE, follow=True)
    assert answer.redirect_chain == [("/", 302)] and "surf will be started" in answer.content.decode()
    command = Command.objects.get()
    assert (command.kind, command.pool, command.created_by) == ("wake", world.pool, world.owner.user)


def test_who_may_start_a_model(world: World, sent: list[tuple[str, str]]) -> None:
    world.model.is_public = False
    world.model.save()
    world.model.projects.add(world.project)
    allowed = {"owner": 302, "mate": 302, "manager": 302, "outsider": 404, "operator": 404}
    assert {who: getattr(world, who).browser.post(WAKE).status_code for who in allowed} == allowed
    assert Client().post(WAKE)["Location"] == f"/login/?next={WAKE}"
    assert world.owner.browser.get(WAKE).status_code == 405
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(world.owner.user)
    assert strict.post(WAKE).status_code == 403
    assert {command.created_by.username for command in Command.objects.all() if command.created_by} == {
        "owner"
    }


def test_the_examples_name_the_model_and_the_address_that_one_came_by(world: World) -> None:
    another_model(world, "turf")
    page = text(world.owner.browser, "/?use=turf")
    curl, sdk = (
        html.unescape(found)
        for found in re.findall(r'<code id="use-(?:curl|openai)">(.*?)</code></pre>', page, re.S)
    )
    assert "curl -K - http://testserver/v1/chat/completions" in curl and '"model": "turf"' in curl
    compile(sdk, "example", "exec")
    assert 'base_url="http://testserver/v1"' in sdk and 'model="turf"' in sdk
    assert 'class="card" open' in page
    for path in ("/", "/?use=bogus"):
        assert 'class="card" open' not in text(world.owner.browser, path)
        assert "Use <code>surf</code>" in text(world.owner.browser, path)


def test_who_belongs_to_no_project_is_told_what_to_do(world: World) -> None:
    Membership.objects.all().delete()
    assert "ask the manager of one, or an administrator" in text(world.owner.browser)


def test_many_models_take_as_many_queries_as_one(world: World) -> None:
    client, counts = world.owner.browser, []
    for n in (0, 20):
        for i in range(n):
            another_model(world, f"m{i}")
        with CaptureQueriesContext(connection) as asked:
            text(client)
        counts.append(len(asked))
    assert counts[0] == counts[1]


def test_many_models_come_page_by_page_and_are_found_by_name(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("portal.dashboard.home.MOST_MODELS", 2)
    assert 'type="search"' not in text(world.owner.browser), "one model needs no search"
    for name in ("kelp", "reef", "tide"):
        another_model(world, name, description=f"All about a {name}.")
    seen: list[list[str]] = []
    path = "/"
    while path:
        page = text(world.owner.browser, path)
        seen.append(re.findall(r'class="says">\s*<code>(\w+)</code>', page))
        found = re.search(r'<a href="([^"]+)">More models</a>', page)
        path = found.group(1).replace("&amp;", "&") if found else ""
    assert seen == [["kelp", "reef"], ["surf", "tide"]]
    page = text(world.owner.browser, "/?find=A+REEF")
    assert "reef" in page and "tide" not in page and "fragments/home?find=A+REEF" in page
    assert "No matches." in text(world.owner.browser, "/?find=whale")
    assert "Use <code>tide</code>" in text(world.owner.browser, "/?use=tide"), "also of one on a later page"
