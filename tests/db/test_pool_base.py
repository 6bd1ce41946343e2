"""What a pool's replicas load is written down as its base; the database keeps it true, and a form says why not."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from django.core.exceptions import ValidationError
from django.core.management import CommandError, call_command
from django.db import IntegrityError, connection, transaction

from portal.catalog.models import Environment, Model, Pool
from portal.redis import hints
from tests.api.world import ApiClient, World
from tests.db.admin_site import admin_url
from tests.db.admin_site import root as root
from tests.db.admin_site import world as world

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints, "directory_changed", lambda: None)
    monkeypatch.setattr(hints, "tick_soon", lambda: None)


@pytest.fixture
def pool() -> Pool:
    return Pool.objects.create(name="p", environment=Environment.objects.create(name="e", engine="echo"))


def base_of(name: str) -> str | None:
    found = Pool.objects.get(pk=name).base
    return found.name if found else None


def check() -> None:
    """Check what a COMMIT would check."""
    with connection.cursor() as cur:
        cur.execute("SET CONSTRAINTS ALL IMMEDIATE")
        cur.execute("SET CONSTRAINTS ALL DEFERRED")


def test_a_pool_without_a_model_has_no_base_and_its_first_one_becomes_it(pool: Pool) -> None:
    assert pool.base is None
    Model.objects.create(name="first", pool=pool, enabled=False)
    assert base_of("p") == "first"
    Model.objects.create(name="second", pool=pool, enabled=False)
    assert base_of("p") == "first", "of those that are not enabled the first stays"


def test_the_model_that_is_enabled_is_the_base(pool: Pool) -> None:
    first = Model.objects.create(name="first", pool=pool)
    second = Model.objects.create(name="second", pool=pool, enabled=False)
    assert base_of("p") == "first"
    first.enabled = False
    first.save()
    assert base_of("p") == "first", "nothing takes its place until something is enabled"
    second.enabled = True
    second.full_clean()
    second.save(update_fields=["enabled"])
    assert base_of("p") == "second"
    check()


def test_a_row_that_was_read_before_does_not_put_the_old_base_back(pool: Pool) -> None:
    stale = Pool.objects.get(pk="p")
    Model.objects.create(name="first", pool=pool)
    stale.cap = 7
    stale.save()
    assert base_of("p") == "first" and stale.base_id is not None
    check()


def test_a_base_that_moves_or_goes_is_no_longer_the_base(pool: Pool) -> None:
    other = Pool.objects.create(name="q", environment=pool.environment)
    first = Model.objects.create(name="first", pool=pool)
    first.pool = other
    first.save()
    assert (base_of("p"), base_of("q")) == (None, "first")
    check()
    first.delete()
    assert base_of("q") is None


def test_a_second_language_model_is_refused_in_words(pool: Pool) -> None:
    Model.objects.create(name="first", pool=pool)
    second = Model(name="second", pool=pool)
    with pytest.raises(
        ValidationError, match=r"serves first already.*Give it a pool of its own, or disable first"
    ):
        second.full_clean()
    with pytest.raises(IntegrityError, match="pool_serves_one_language_model"), transaction.atomic():
        second.save()


def test_the_admin_says_so_at_the_field(root: ApiClient, world: World, pool: Pool) -> None:
    Model.objects.create(name="first", pool=pool)
    answer = root.post(
        admin_url(Model, "add"), {"name": "second", "kind": "llm", "pool": "p", "enabled": "on"}
    )
    assert answer.status_code == 200 and "Pool p serves first already" in answer.content.decode()
    assert not Model.objects.filter(name="second").exists()


@pytest.mark.parametrize(
    "what",
    [
        "UPDATE catalog_pool SET base_id = NULL WHERE name = 'p'",
        "UPDATE catalog_pool SET base_id = (SELECT id FROM catalog_model WHERE name = 'other') WHERE name = 'p'",
        "UPDATE catalog_pool SET base_id = (SELECT id FROM catalog_model WHERE name = 'off') WHERE name = 'p'",
        "UPDATE catalog_model SET kind = 'dnn' WHERE name = 'first'",
        "UPDATE catalog_model SET pool_id = 'q' WHERE name = 'first'",
    ],
)
def test_the_database_refuses_a_base_that_is_none(pool: Pool, what: str) -> None:
    other = Pool.objects.create(name="q", environment=pool.environment)
    Model.objects.create(name="first", pool=pool)
    Model.objects.create(name="off", pool=pool, enabled=False)
    Model.objects.create(name="other", pool=other, enabled=False)
    check()
    with pytest.raises(IntegrityError, match="pool_base"), transaction.atomic(), connection.cursor() as cur:
        cur.execute(what)
        check()


def test_a_catalog_file_replaces_a_base_in_whatever_order_it_names_the_models(
    pool: Pool, tmp_path: Path
) -> None:
    Model.objects.create(name="zeta", pool=pool)
    file = tmp_path / "catalog.yaml"
    file.write_text("models: {alpha: {pool: p, enabled: true}, zeta: {enabled: false}}")
    call_command("catalog", "apply", str(file), stdout=io.StringIO())
    assert base_of("p") == "alpha"
    file.write_text("models: {zeta: {enabled: true}}")
    with pytest.raises(CommandError, match=r"models\.zeta\.pool: Pool p serves alpha already"):
        call_command("catalog", "apply", str(file), stdout=io.StringIO())
    assert base_of("p") == "alpha"
