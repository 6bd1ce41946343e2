"""Ways to Slurm in the catalog, and what people read of several clusters."""

from __future__ import annotations

import io
from datetime import timedelta
from importlib import import_module
from typing import Any

import pytest
from django.apps import apps
from django.core.exceptions import ValidationError
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction
from django.utils import timezone

from portal import hints
from portal.api import targets
from portal.api.commanding import Wish, give
from portal.catalog.models import Access, Profile
from portal.fleet.models import Cluster, Command, Pilot
from portal.gateway.catalog import read_phases
from portal.notices import events
from portal.postgres import plain
from scheduler.slurm.way import Way
from scheduler.ways import way_by, way_of
from tests.api.world import World, build, pilot_row
from tests.ways import way_row

pytestmark = pytest.mark.django_db


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(hints, "_send_tick", lambda: None)
    return build()


@pytest.fixture
def alps(world: World) -> Access:
    return Access.objects.create(name="alps", cluster="alps", submit_prefix=["ssh", "alps1"])


def wrong(row: Access | Profile) -> dict[str, str]:
    with pytest.raises(ValidationError) as caught:
        row.full_clean()
    return {field: " ".join(said) for field, said in caught.value.message_dict.items()}


def test_a_profile_has_the_cluster_of_its_access_also_when_that_changes(alps: Access) -> None:
    profile = Profile(name="far", partition="normal", access=alps)
    profile.full_clean()
    profile.save()
    assert profile.cluster == "alps" and way_of(profile) == way_by(alps)
    Access.objects.filter(pk=alps.pk).update(cluster="eiger")  # past every rule of Python's
    profile.refresh_from_db()
    assert profile.cluster == "eiger"
    with pytest.raises(IntegrityError), transaction.atomic():
        Profile.objects.filter(pk=profile.pk).update(cluster="elsewhere")
        with connection.cursor() as cur:
            cur.execute("SET CONSTRAINTS ALL IMMEDIATE")


def test_a_way_is_all_that_its_access_says_and_tells_no_secret() -> None:
    rest = Access(
        name="r",
        kind="rest",
        cluster="alps",
        address="http://slurm:6820",
        user="berth",
        token_command=["mint", "x"],
    )
    way = way_by(rest)
    assert way == Way(
        "rest", "alps", address="http://slurm:6820", user="berth", token_command=("mint", "x"), name="r"
    )
    assert way.said == "Slurm (r, at slurm:6820)"
    assert Way(prefix=("sshpass", "-psecret", "ssh", "login01")).said == "Slurm (main, by sshpass login01)"
    assert Way("rest", address="http://me:secret@slurm:6820").said == "Slurm (main, at slurm:6820)"
    assert Way().said == "Slurm (main)"


def test_under_live_jobs_nothing_changes_that_they_are_found_by(world: World, alps: Access) -> None:
    pilot = pilot_row(world)
    profile = pilot.profile
    profile.access = alps
    assert "1 job of this profile would not be found" in wrong(profile)["access"]
    Profile.objects.filter(pk=profile.pk).update(access=alps, cluster="alps")
    alps.cluster = "eiger"
    assert "1 job submitted by this way would not be found" in wrong(alps)["cluster"]
    alps.refresh_from_db()
    alps.submit_prefix = ["ssh", "alps2"]
    alps.full_clean()
    Pilot.objects.update(state="ended", ended_at=timezone.now(), end_reason="its time was over")
    alps.cluster = "eiger"
    alps.full_clean()


def test_without_an_access_a_profile_is_of_the_cluster_to_which_this_hosts_commands_lead(
    alps: Access,
) -> None:
    assert (
        "choose the access that leads to alps"
        in wrong(Profile(name="x", partition="p", cluster="alps"))["access"]
    )
    Profile(name="x", partition="p", cluster="alps", enabled=False).full_clean()
    said = wrong(Profile(name="x", partition="p", cluster="eiger", access=alps))
    assert "Access alps leads to cluster alps" in said["cluster"]


def test_the_migration_makes_one_access_of_each_distinct_prefix(world: World) -> None:
    """On today's tables with the old column put back: what it reads and writes is the same."""

    class Old:
        def __init__(self, name: str, cluster: str, prefix: list[str]) -> None:
            self.name, self.cluster, self.submit_prefix, self.access = name, cluster, prefix, None

        def save(self, update_fields: list[str]) -> None:
            assert update_fields == ["access"]

    rows = [
        Old("a", "main", ["ssh", "login01"]), Old("b", "main", ["ssh", "login01"]), Old("c", "alps", ["ssh", "login01"]),
        Old("d", "main", ["sudo", "-u", "berth"]),
    ]  # fmt: skip

    class Rows:
        objects: Any

        def exclude(self, submit_prefix: list[str]) -> Rows:
            return self

        def order_by(self, name: str) -> list[Old]:
            return rows

    table = type("Table", (), {"objects": Rows()})
    found = {("catalog", "Profile"): table, ("catalog", "Access"): apps.get_model("catalog", "Access")}
    names = type("Names", (), {"get_model": lambda self, *key: found[key]})()
    import_module("portal.catalog.migrations.0009_submit_prefix_becomes_access").forward(names, None)
    made = {row.name: row.access.name for row in rows}  # type: ignore[attr-defined]
    assert made == {"a": "ssh-login01", "b": "ssh-login01", "c": "ssh-login01-alps", "d": "sudo-u"}
    assert Access.objects.get(name="ssh-login01-alps").cluster == "alps"


# What people read and name.


@pytest.fixture
def two(world: World, alps: Access) -> Pilot:
    """A pilot in each of two clusters, of one number on nodes of one name; alps has been silent for seven minutes."""
    now = timezone.now()
    here = pilot_row(world)
    far = Profile.objects.create(name="far", partition="normal", access=alps)
    Pilot.objects.filter(pk=here.pk).update(job_id=17, node="gpu01")
    there = pilot_row(world)
    Pilot.objects.filter(pk=there.pk).update(job_id=17, node="gpu01", cluster="alps", profile=far)
    way_row(tried_at=now, answered_at=now)
    way_row(
        "alps",
        "alps",
        said=way_by(alps).said,
        tried_at=now,
        answered_at=now - timedelta(minutes=7),
        error="squeue: gone",
    )
    Cluster.objects.update(ticked_at=now)
    there.refresh_from_db()
    return there


def test_a_number_that_two_clusters_gave_is_named_with_its_cluster(two: Pilot) -> None:
    with pytest.raises(ValidationError, match="Several clusters have a job 17: write alps/17 or main/17"):
        targets.pilot("17")
    assert targets.pilot("alps/17").pk == two.pk
    assert targets.pilot("main/17").cluster == "main"
    Pilot.objects.filter(pk=two.pk).update(state="ended", ended_at=timezone.now(), end_reason="over")
    assert targets.pilot("17").cluster == "main", "the live one"


def test_unknown_jobs_and_pauses_name_their_cluster(two: Pilot) -> None:
    Cluster.objects.update(orphans={"98": 1.0})
    with pytest.raises(ValidationError, match="Clusters alps and main both have an unknown job 98"):
        give(Wish(Command.Kind.ADOPT, args={"job_id": 98}), "root")
    with pytest.raises(ValidationError, match=r"No cluster is named 'alp'\. Did you mean alps"):
        give(Wish(Command.Kind.PAUSE, args={"cluster": "alp"}), "root")
    given = give(Wish(Command.Kind.REJECT, args={"job_id": 98, "cluster": "alps"}), "root")
    assert given.args == {"job_id": 98, "cluster": "alps", "by": "root"}
    with pytest.raises(ValidationError, match="a model or a cluster, not both"):
        give(Wish(Command.Kind.PAUSE, pool=build_pool(), args={"cluster": "alps"}), "root")


def build_pool() -> Any:
    return apps.get_model("catalog", "Pool")._default_manager.first()


def test_the_terminal_says_which_way_is_silent_and_how_one_cluster_is_paused(two: Pilot) -> None:
    Cluster.objects.filter(name="alps").update(paused=True, orphans={})
    out = io.StringIO()
    call_command("fleet", "status", stdout=out, stderr=out)
    said = out.getvalue()
    assert "Cluster alps: No answer from Slurm since" in said and "squeue: gone" in said
    assert "Cluster main: Slurm answered just now" in said
    assert "Cluster alps is paused: `fleet resume --cluster alps` ends it." in said
    call_command("fleet", "resume", "--cluster", "alps", stdout=out, stderr=out)
    assert Command.objects.get().args["cluster"] == "alps"


def test_pages_and_api_name_the_cluster_that_is_silent_and_tell_two_nodes_of_one_name_apart(
    world: World, two: Pilot
) -> None:
    now = world.operator.browser.get("/now/").content.decode()
    assert "Slurm of alps does not answer." in now and "Slurm of main" not in now
    assert "alps: gpu01" in now and "main: gpu01" in now
    fleet = world.operator.browser.get("/fleet/").content.decode()
    assert "Cluster alps" in fleet and "squeue: gone" in fleet and "Pause this cluster" in fleet
    clusters = {one["name"]: one for one in world.operator.api.send("GET", "fleet").json()["clusters"]}
    assert (clusters["main"]["slurm_answers"], clusters["alps"]["slurm_answers"]) == (True, False)
    assert [way["name"] for way in clusters["alps"]["ways"]] == ["alps"]


def test_who_waits_hears_of_the_silence_of_its_own_cluster_only(world: World, two: Pilot) -> None:
    def why() -> str:
        with connection.cursor() as cur:
            return read_phases(plain(cur), timezone.now().timestamp(), ["surf"])["surf"].says

    assert "has not answered" not in why(), "its profile is of main"
    world.pool.profiles.set([Profile.objects.get(name="far")])
    assert "Slurm (alps, by ssh alps1) has not answered since" in why()


def test_operators_are_told_of_the_way_that_is_silent(two: Pilot) -> None:
    told = list(events._silent(timezone.now()))
    assert [event.subject for event in told] == ["Slurm of alps (access alps) does not answer"]
    assert "nothing is started by this way" in told[0].text and "squeue: gone" in told[0].text


@pytest.mark.parametrize(
    "address", ["http://[slurm]:6820", "http://[fd00::1:6820", "http://slurm:port", "http://slurm:99999"]
)
def test_an_address_that_is_no_url_is_refused_with_what_to_write(address: str) -> None:
    said = wrong(Access(name="bad", kind="rest", cluster="c3", address=address, token_file="/x/t"))
    assert "write a host name, an IPv4 address or an IPv6 address in brackets, and a port" in said["address"]
    Access(name="v6", kind="rest", cluster="c3", address="http://[::1]:6820", token_file="/x/t").full_clean()
