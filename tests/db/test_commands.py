"""Management commands: what they make, that they may run again, and that they print no secret twice."""

from __future__ import annotations

import io
import json
import stat
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command

from portal.accounts import tokens
from portal.accounts.models import ApiToken, Membership, Project, User
from portal.catalog.models import Model, Pool, Profile
from portal.config import config
from portal.fleet.models import Cluster


def run(*argv: str) -> str:
    out = io.StringIO()
    call_command(*argv, stdout=out)
    return out.getvalue()


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.django_db
def test_setup_makes_what_is_missing_and_keeps_what_is_there() -> None:
    run("setup")
    settings = config()
    keys = {name: (settings.state_dir / name).read_text() for name in ("instance", "site.key", "secret.key")}
    assert mode(settings.state_dir) == mode(settings.spool) == 0o700
    assert all(mode(settings.state_dir / name) == 0o600 for name in keys)
    again = run("setup")
    assert "created" not in again and "kept" in again
    assert keys == {name: (settings.state_dir / name).read_text() for name in keys}
    assert Cluster.objects.get().name == settings.cluster
    assert not any(value.strip() in again for name, value in keys.items() if name != "instance")


@pytest.mark.django_db
def test_createtoken_prints_a_token_that_is_known_by_its_hash() -> None:
    user, project = User.objects.create_user("ada"), Project.objects.create(slug="waves", name="Waves")
    Membership.objects.create(user=user, project=project)
    text = run(
        "createtoken", "ada", "waves", "notebook", "--scopes", "inference", "read", "--days", "7"
    ).strip()
    row = ApiToken.objects.get(digest=tokens.digest(text))
    assert tokens.well_formed(text) and row.scopes == ["inference", "read"] and row.user == user


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["eve", "waves", "n"], "no user 'eve'"),
        (["ada", "storms", "n"], "no project 'storms'"),
        (["ada", "waves", "n"], "not a member"),
    ],
)
def test_createtoken_says_what_is_wrong(argv: list[str], said: str) -> None:
    User.objects.create_user("ada")
    Project.objects.create(slug="waves", name="Waves")
    with pytest.raises(CommandError, match=said):
        run("createtoken", *argv)


@pytest.mark.django_db
def test_demo_seed_runs_twice_and_changes_only_the_token() -> None:
    argv = ("demo_seed", "--json", "--model-path", "/models/demo", "--engine-python", "/envs/vllm/bin/python")
    first, second = json.loads(run(*argv)), json.loads(run(*argv))
    assert first.pop("token") != (token := second.pop("token"))
    assert first == second
    assert ApiToken.objects.get(revoked_at=None).digest == tokens.digest(token)
    assert sorted(Model.objects.values_list("name", flat=True)) == ["berth-demo", "echo"]
    assert Profile.objects.get().partition == "gpu"
    pool = Pool.objects.get(name="berth-demo")
    assert pool.environment.python == "/envs/vllm/bin/python" and pool.args["device"] == "cpu"
    for login in (second["admin"], second["user"]):
        assert User.objects.get(username=login["username"]).check_password(login["password"])
    assert User.objects.get(is_superuser=True).username == second["admin"]["username"]
    assert mode(config().state_dir / "demo.json") == 0o600


@pytest.mark.django_db
def test_demo_seed_gives_a_new_database_the_old_passwords() -> None:
    argv = ("demo_seed", "--json", "--model-path", "/m", "--engine-python", "/p")
    first = json.loads(run(*argv))
    User.objects.get(username="demo").delete()
    assert json.loads(run(*argv))["user"] == first["user"]
