"""An empty installation tells an administrator the next step on every page, and a user whom to ask."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone

from portal.accounts.models import Membership, Project, User
from portal.catalog.models import Environment, Model, Pool, Profile
from portal.dashboard.firstrun import Found, Step, next_step
from portal.fleet.models import Cluster
from tests.api.world import World
from tests.ways import way_row

pytestmark = pytest.mark.django_db
PAGES = (
    "/",
    "/playground/",
    "/requests/",
    "/batches/",
    "/usage/",
    "/projects/",
    "/notices/",
    "/models/register/",
    "/tokens/",
    "/help/",
    "/now/",
    "/queue/",
    "/fleet/",
    "/fleet/decisions/",
)


@pytest.fixture
def root() -> Client:
    client = Client()
    client.force_login(User.objects.create_superuser("root", password=None))
    return client


@pytest.mark.parametrize("path", [*PAGES, "/admin/", "/admin/catalog/model/"])
def test_every_page_tells_an_administrator_the_next_step(root: Client, path: str) -> None:
    page = root.get(path).content.decode()
    assert "Next step, 1 of 8: Add an environment." in page
    assert 'href="/admin/catalog/environment/add/"' in page


def test_one_step_after_the_other_until_nothing_is_missing(root: Client) -> None:
    now = timezone.now()

    def told() -> str:
        page = root.get("/").content.decode()
        return page.split("<b>Next step, ")[1].split("</b>")[0] if "<b>Next step, " in page else ""

    assert told() == "1 of 8: Add an environment."
    environment = Environment.objects.create(name="echo", engine="echo")
    assert told() == "2 of 8: Add a profile."
    profile = Profile.objects.create(name="gpu", partition="gpu", enabled=False)
    assert told() == "2 of 8: Add a profile.", "one that is switched off is none"
    Profile.objects.update(enabled=True)
    assert told() == "3 of 8: Add a project."
    project = Project.objects.create(slug="waves", name="Waves")
    assert told() == "4 of 8: Add a member to a project."
    Membership.objects.create(user=User.objects.get(), project=project)
    assert told() == "5 of 8: Start the control loop."
    Cluster.objects.create(name="main", ticked_at=now)
    assert told() == "6 of 8: Connect to Slurm."
    way_row(answered_at=now)
    assert told() == "7 of 8: Register a model."
    assert 'href="/models/register/">Open the page' in root.get("/").content.decode()
    pool = Pool.objects.create(name="surf", environment=environment)
    Model.objects.create(name="surf", pool=pool)
    assert told() == "8 of 8: Give a pool a profile."
    pool.profiles.add(profile)
    assert "notice wait" not in root.get("/").content.decode().split("<h1>")[0]


def test_a_user_is_told_whom_to_ask_and_nothing_of_the_machinery() -> None:
    client = Client()
    client.force_login(User.objects.create_user("eve", password=None))
    for path in ("/", "/tokens/", "/help/"):
        page = client.get(path).content.decode()
        assert (
            "Berth is not set up yet." in page and "Administrators see on this page what is missing" in page
        )
        assert "Next step" not in page and "/admin/" not in page


def test_an_operator_hears_of_the_loop_and_slurm_and_users_that_nothing_starts(world: World) -> None:
    long_ago = timezone.now() - timedelta(hours=1)
    Cluster.objects.create(name="main", ticked_at=long_ago)
    way_row(answered_at=long_ago)
    assert "The control loop has stopped." in world.operator.browser.get("/").content.decode()
    page = world.owner.browser.get("/").content.decode()
    assert "Models cannot be started now." in page and "Celery" not in page
    Cluster.objects.update(ticked_at=timezone.now())
    way_row(error="squeue: timed out")
    assert "Slurm does not answer." in world.operator.browser.get("/").content.decode()


def test_the_log_in_page_tells_strangers_nothing() -> None:
    assert "not set up" not in Client().get("/login/").content.decode()


def test_a_complete_installation_has_no_next_step() -> None:
    now = timezone.now()
    whole = Found(True, True, True, True, True, True, now, now, "")
    assert next_step(whole, now) is None
    late = next_step(whole, now + timedelta(minutes=3))
    assert isinstance(late, Step) and late.number == 0
