"""What may go wrong with rows that are right by themselves is said when they are saved, and hinders nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from django.contrib.messages import get_messages
from django.core.checks import run_checks

from portal.catalog import apps, doubts
from portal.catalog.models import Access, Environment, Pool, Profile
from portal.catalog_file.changes import apply
from portal.catalog_file.tree import read
from portal.config import config
from tests.api.world import ApiClient, World
from tests.db.admin_site import root as root
from tests.db.admin_site import save
from tests.db.admin_site import world as world

pytestmark = pytest.mark.django_db


def told(text: str) -> dict[str, str]:
    return {change.name: change.doubts for change in apply(read(text))}


@pytest.fixture
def pool() -> Pool:
    environment = Environment.objects.create(name="echo", engine="echo", gpu_types=[])
    made = Pool.objects.create(name="llama", environment=environment, gpus=2, mem_mb=16_000)
    made.profiles.add(
        Profile.objects.create(name="a100", partition="gpu", gpu_type="a100", gpus=4, nodes=2, mem_mb=64_000)
    )
    return made


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"gpus": 8}, "takes 8 GPUs and 16000 MiB: a100 has 4 GPUs and 64000 MiB on each of 2 nodes."),
        ({"mem_mb": 99_000}, "takes 2 GPUs and 99000 MiB: a100 has"),
        ({"gpus": 3, "nodes": 2}, "takes exactly 3 GPUs and 16000 MiB on each of 2 nodes: a100 has 4 GPUs"),
        ({"gpus": 4, "nodes": 3}, "on each of 3 nodes: a100 has"),
        ({"gpus": 4, "nodes": 2}, ""),
        ({}, ""),
    ],
)
def test_a_pool_that_none_of_its_profiles_can_hold(pool: Pool, change: dict[str, int], said: str) -> None:
    Pool.objects.filter(pk=pool.pk).update(**change)
    pool.refresh_from_db()
    found = doubts.of(pool)
    assert said in found and bool(said) == bool(found)
    Profile.objects.update(enabled=False)
    assert "No profile of pool llama is enabled" in doubts.of(pool)


def test_a_pool_whose_environment_runs_on_no_gpu_of_its_profiles(pool: Pool) -> None:
    Environment.objects.update(gpu_types=["h100", "gh200"])
    pool.refresh_from_db()
    assert "runs on GPUs of type h100, gh200, and its profiles have others: a100 has a100" in doubts.of(pool)
    Environment.objects.update(gpu_types=["h100", "a100"])
    pool.refresh_from_db()
    assert doubts.of(pool) == ""


def test_apply_looks_at_the_catalog_as_it_is_in_the_end(pool: Pool) -> None:
    both = told("{profiles: {a100: {gpus: 2}}, pools: {llama: {gpus: 1}}}")
    assert "can hold" not in both["a100"] and both["llama"] == ""
    assert (
        "No enabled profile of pool llama can hold a replica"
        in told("profiles: {a100: {mem_mb: 100}}")["a100"]
    )


def test_a_person_hears_of_it_after_saving(root: ApiClient, world: World) -> None:
    answer = save(root, world.pool, gpus=64)
    assert answer.status_code == 302
    assert any("can hold a replica" in str(said) for said in get_messages(answer.wsgi_request))


def test_two_ways_to_one_cluster_are_a_question_and_no_mistake() -> None:
    Access.objects.create(name="alps", submit_prefix=["ssh", "alps1"])
    said = told("accesses: {b: {cluster: alps, conf: /etc/slurm/b.conf}, c: {conf: /etc/slurm/c.conf}}")
    assert "If b leads to another Slurm, give it a cluster name of its own" in said["b"] and not said["c"]
    assert "BERTH_CLUSTER" in told("accesses: {d: {cluster: main, conf: /etc/slurm/d.conf}}")["d"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:8000", "http://localhost:8000", "http://[::1]:8000"])
def test_nodes_that_are_told_of_the_loopback(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    said = told(f"profiles: {{p: {{partition: gpu, portal_url_from_nodes: '{url}'}}}}")["p"]
    assert f"are told that the portal is at {url}, which is each node itself" in said
    settings = replace(config(), portal_url=url)
    monkeypatch.setattr("portal.catalog.doubts.config", lambda: settings)
    assert "each node itself" in told("profiles: {q: {partition: gpu}}")["q"]
    assert (
        "each node itself"
        not in told("profiles: {r: {partition: gpu, portal_url_from_nodes: 'http://10.0.0.5:8000'}}")["r"]
    )
    monkeypatch.setattr("portal.config.config", lambda: settings)
    assert [found.id for found in apps.reached_by_nodes()] == ["berth.W001"]
    reached = replace(settings, portal_url="https://berth.example.org")
    monkeypatch.setattr("portal.config.config", lambda: reached)
    assert apps.reached_by_nodes() == []


def test_the_check_is_one_of_djangos() -> None:
    here = any(found.id == "berth.W001" for found in run_checks())
    assert here == bool(apps.reached_by_nodes())
