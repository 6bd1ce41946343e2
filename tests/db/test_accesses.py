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

from portal.catalog import ways
from portal.catalog.models import Access, Profile
from portal.catalog_file.changes import apply
from portal.catalog_file.tree import read
from portal.config import config
from portal.db.connections import plain
from portal.fleet.models import Cluster, Command, Pilot
from portal.fleet.phases import read_phases
from portal.notices import events
from portal.redis import hints
from portal.services import targets
from portal.services.commands import NewCommand, give
from scheduler.jobs.spec import log_path, secret_path, spec_of
from scheduler.observe.ways import way_by, way_of
from scheduler.slurm.way import Way
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


def read_catalog(text: str) -> None:
    apply(read(text))


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
    assert "1 job submitted by this way might not be found" in wrong(alps)["cluster"]
    for field, value in {
        "submit_prefix": ["ssh", "alps2"],
        "conf": "/etc/slurm/other.conf",
        "spool": "/alps/spool",
    }.items():
        alps.refresh_from_db()
        setattr(alps, field, value)
        assert "or make a new access" in wrong(alps)[field]
    alps.refresh_from_db()
    alps.kind, alps.submit_prefix, alps.address, alps.token_file = (
        "rest",
        [],
        "http://slurm:6820",
        "/run/token",
    )
    assert set(wrong(alps)) == {"kind", "submit_prefix", "token_file"}
    alps.refresh_from_db()
    alps.agent_python, alps.agent_home = "/alps/berth/bin/python", "/alps/berth/src"  # of later jobs only
    alps.full_clean()
    Pilot.objects.update(state="ended", ended_at=timezone.now(), end_reason="its time was over")
    alps.cluster, alps.submit_prefix = "eiger", ["ssh", "eiger"]
    alps.full_clean()


def test_an_access_that_names_no_cluster_leads_to_one_of_its_own(world: World) -> None:
    entered = Access(name="daint", submit_prefix=["ssh", "daint"])
    entered.full_clean()
    entered.save()
    assert entered.cluster == "daint"
    assert Access.objects.create(name="eiger", submit_prefix=["ssh", "eiger"]).cluster == "eiger"
    read_catalog("accesses: {todi: {submit_prefix: [ssh, todi]}}")
    assert Access.objects.get(name="todi").cluster == "todi"
    read_catalog("accesses: {todi: {conf: /etc/slurm/todi.conf}}")
    assert Access.objects.get(name="todi").cluster == "todi"


def test_slurmrestd_wants_a_token_by_a_socket_too() -> None:
    said = wrong(Access(name="r", kind="rest", cluster="alps", address="unix:/run/slurmrestd/socket"))
    assert "by a unix socket too: write its file, or token_command" in said["token_file"]


def test_a_jobs_paths_are_its_profiles_its_accesses_or_the_portals(world: World, alps: Access) -> None:
    settings = config()
    pilot = pilot_row(world)
    plain = spec_of(pilot, settings)
    assert (plain.agent_python, plain.agent_home) == (settings.agent_python, settings.agent_home)
    assert plain.secret.path == f"{settings.spool}/secret/{pilot.pk}.json"
    alps.spool, alps.agent_python, alps.agent_home = "/alps/spool/", "/alps/bin/python", "/alps/src/"
    alps.full_clean()
    alps.save()
    pilot.profile.access = alps
    there = spec_of(pilot, settings)
    assert (there.agent_python, there.agent_home) == ("/alps/bin/python", "/alps/src")
    assert there.log_path == log_path(settings, pilot) == f"/alps/spool/log/{pilot.pk}.out"
    assert there.secret.path == secret_path(settings, pilot) == f"/alps/spool/secret/{pilot.pk}.json"
    pilot.profile.agent_python = "/alps/arm/bin/python"
    assert spec_of(pilot, settings).agent_python == "/alps/arm/bin/python"


def test_paths_that_no_script_takes_are_refused_where_they_are_written() -> None:
    for field, value in {
        "spool": "/my spool",
        "agent_home": "src",
        "agent_python": "/opt/$ARCH/python",
    }.items():
        assert set(wrong(Access(name="a", **{field: value}))) == {field}
    assert set(wrong(Profile(name="p", partition="p", agent_python="/a/../python"))) == {"agent_python"}


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
    """Make a pilot in each of two clusters, of one number on nodes of one name.

    alps has been silent for seven minutes.
    """
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
        give(NewCommand(Command.Kind.ADOPT, args={"job_id": 98}), "root")
    with pytest.raises(ValidationError, match=r"No cluster is named 'alp'\. Did you mean alps"):
        give(NewCommand(Command.Kind.PAUSE, args={"cluster": "alp"}), "root")
    given = give(NewCommand(Command.Kind.REJECT, args={"job_id": 98, "cluster": "alps"}), "root")
    assert given.args == {"job_id": 98, "cluster": "alps", "by": "root"}
    with pytest.raises(ValidationError, match="a model or a cluster, not both"):
        give(NewCommand(Command.Kind.PAUSE, pool=build_pool(), args={"cluster": "alps"}), "root")


def build_pool() -> Any:
    return apps.get_model("catalog", "Pool")._default_manager.first()


def test_the_terminal_says_which_way_is_silent_and_how_one_cluster_is_paused(two: Pilot) -> None:
    Cluster.objects.filter(name="alps").update(paused=True, orphans={})
    out = io.StringIO()
    call_command("fleet", "status", stdout=out, stderr=out)
    said = out.getvalue()
    assert "Cluster alps: No answer from Slurm since" in said and "squeue: gone" in said
    assert "Cluster main: Slurm answered just now" in said
    assert "Cluster alps is paused: `fleet resume --cluster alps` resumes it." in said
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
    assert "nothing is launched through this access" in told[0].text and "squeue: gone" in told[0].text


@pytest.mark.parametrize(
    ("kind", "extra", "says"),
    [
        ("native", {"switches": "1@60", "comment": "x"}, "pyslurm has no words for switches: choose"),
        ("rest", {"hint": "nomultithread"}, "slurmrestd has no words for hint: choose"),
        ("rest", {"switches": "1@60"}, ""),
        ("cli", {"switches": "1@60", "hint": "nomultithread"}, ""),
    ],
)
def test_a_directive_that_its_access_cannot_ask_for_is_refused_in_the_form(
    world: World, kind: str, extra: dict[str, Any], says: str
) -> None:
    access = Access.objects.create(name="alps", cluster="alps", kind=kind)
    profile = Profile(name="far", partition="normal", access=access, extra=extra)
    if says:
        assert says in wrong(profile)["extra"]
    else:
        profile.full_clean()


@pytest.mark.parametrize(
    ("address", "warns"),
    [
        ("http://slurm:6820", True),
        ("http://10.0.0.1:6820", True),
        ("http://127.example.org", True),
        ("http://[::", True),
        ("http://127.0.0.1:6820", False),
        ("http://localhost:6820", False),
        ("http://[::1]:6820", False),
        ("https://slurm:6820", False),
        ("unix:/run/slurmrestd/socket", False),
        ("", False),
    ],
)
def test_a_token_that_travels_in_clear_is_doubted(address: str, warns: bool) -> None:
    said = ways.doubts(Access(name="alps", kind="rest", address=address))
    assert bool(said) == warns and ("https://" in said) == warns


def test_an_access_of_another_kind_says_which_profiles_lose_a_directive(alps: Access) -> None:
    Profile.objects.create(name="far", partition="normal", access=alps, extra={"switches": "1@60"})
    assert ways.doubts(alps) == ""
    alps.kind = "native"
    assert ways.doubts(alps).startswith("far: pyslurm has no words for switches")


@pytest.mark.parametrize(
    "address", ["http://[slurm]:6820", "http://[fd00::1:6820", "http://slurm:port", "http://slurm:99999"]
)
def test_an_address_that_is_no_url_is_refused_with_what_to_write(address: str) -> None:
    said = wrong(Access(name="bad", kind="rest", cluster="c3", address=address, token_file="/x/t"))
    assert "write a host name, an IPv4 address or an IPv6 address in brackets, and a port" in said["address"]
    Access(name="v6", kind="rest", cluster="c3", address="http://[::1]:6820", token_file="/x/t").full_clean()
