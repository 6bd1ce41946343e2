"""`manage.py catalog export`: what is written applies to nothing new, and puts everything back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.db import transaction
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from portal.accounts.issue import issue_token
from portal.accounts.models import Membership, Quota
from portal.catalog.models import Access, Environment, Model, Pool, Profile
from portal.catalog_file.changes import apply
from portal.catalog_file.export import export
from portal.catalog_file.sections import SECTIONS
from portal.catalog_file.tree import read
from portal.fleet.models import Fit
from tests.api import world as make
from tests.api.world import World

pytestmark = pytest.mark.django_db


def _rich(world: World) -> None:
    """Put something into every section, also what is awkward to write."""
    Membership.objects.filter(user=world.owner.user).update(role="manager")
    Access.objects.create(
        name="login", cluster="main", submit_prefix=["ssh", "login01"], conf="/etc/slurm/it's.conf"
    )
    Access.objects.create(
        name="alps",
        kind="rest",
        cluster="alps",
        address="http://slurm:6820",
        user="berth",
        token_file="/run/alps.jwt",
    )
    Profile.objects.filter(name="gpu").update(
        extra={"switches": "1@60", "contiguous": True, "mincpus": 4}, constraint="[a100*2]", nice=7,
        access=Access.objects.get(name="login"), prologue="module load cuda\n# 'quoted' \"too\"\n", charge="project",
        project=world.project, door_ports="20000-20100",
    )  # fmt: skip
    Pool.objects.filter(name="surf").update(
        args={"max_model_len": 8192, "dtype": "1e3", "seed": 7, "x": True}
    )
    Environment.objects.update(
        python="/p", prologue="module load 'x'\n#", image="/i.sif", image_binds=["/a:/b:ro"]
    )
    Fit.objects.create(pool=world.pool, gpu_type="", fits=True)
    Fit.objects.create(pool=world.pool, gpu_type="no", fits=False)
    Model.objects.filter(name="surf").update(
        description="yes", revision="2026-01-01", path="/m/ü: x", is_public=False
    )
    world.model.projects.set([world.project, world.other])
    token, _ = issue_token(world.owner.user, world.project, "quota", ["read"])
    for subject in (
        {"token": token},
        {"user": world.owner.user},
        {"project": world.other},
        {"model": "surf"},
    ):
        Quota.objects.create(level=next(iter(subject)), requests_per_min=5, **subject)


def test_what_is_exported_applies_to_nothing_new_and_puts_everything_back(
    tmp_path: Path,
) -> None:
    world = make.build()
    _rich(world)
    text = export()
    changes = apply(read(text))
    assert {change.kind for change in changes} == {"unchanged"} and len(changes) == 12
    Pool.objects.update(cap=1, args={})
    Model.objects.update(is_public=True, revision="")
    world.model.projects.clear()
    Fit.objects.update(fits=True)
    Quota.objects.filter(level="token").delete()
    Profile.objects.update(prologue="", gpus=7, extra={}, constraint="")
    Environment.objects.update(prologue="", image="", image_binds=[])
    assert {change.kind for change in apply(read(text))} == {"unchanged", "changed", "added"}
    assert export() == text
    file = tmp_path / "out.yaml"
    call_command("catalog", "export", str(file))
    assert file.read_text() == text


_TEXT = st.text(
    st.characters(codec="utf-8", exclude_characters="\0", exclude_categories=("Cs", "Cc")), max_size=40
)
_NAME = st.from_regex(r"[a-z][a-z0-9-]{0,20}", fullmatch=True)
_SMALL = st.integers(1, 30_000)
_PROJECT = st.fixed_dictionaries(
    {"name": _TEXT.filter(str.strip), "weight": st.floats(0.001, 1e6), "max_gpus": st.none() | _SMALL}
)
_PROFILE = st.fixed_dictionaries(
    {
        "partition": _NAME,
        "gpus": st.integers(0, 4096),
        "preemptible": st.booleans(),
        "cost": st.floats(0.01, 99),
        "prologue": _TEXT,
        "constraint": st.sampled_from(["", "a100&nvlink", "[rack1*2]", "(a|b)"]),
        "licenses": st.sampled_from(["", "ansys:2,matlab@flex"]),
        "exclusive": st.sampled_from(["", "node", "user"]),
        "gpu_request": st.sampled_from(["gres", "gpus-per-node"]),
        "gpu_type_asked": st.booleans(),
        "mem_request": st.sampled_from(["mem", "none"]),
        "nice": st.integers(0, 2_000_000_000),
        "extra": st.fixed_dictionaries(
            {},
            optional={
                "switches": st.just("1@60"),
                "contiguous": st.just(True),
                "mincpus": st.integers(0, 99),
                "hint": st.just("nomultithread"),
            },
        ),
    }
)
_ARGS = st.dictionaries(
    st.from_regex(r"[a-z][a-z0-9_]{0,10}", fullmatch=True),
    _TEXT | st.integers(-9, 2**40) | st.booleans(),
    max_size=4,
)
_CATALOG = st.fixed_dictionaries(
    {
        "projects": st.dictionaries(_NAME, _PROJECT, max_size=3),
        "profiles": st.dictionaries(_NAME, _PROFILE, min_size=1, max_size=3),
        "pools": st.dictionaries(_NAME, st.fixed_dictionaries({"cap": _SMALL, "args": _ARGS}), max_size=3),
    }
)


@settings(
    max_examples=20, deadline=None, phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip
@given(_CATALOG)
def test_any_catalog_comes_back_as_it_was(catalog: dict[str, Any]) -> None:
    with transaction.atomic():
        catalog |= {"environments": {"echo": {"engine": "echo"}}}
        for pool in catalog["pools"].values():
            pool |= {"environment": "echo", "profiles": sorted(catalog["profiles"])}
        written = yaml.safe_dump(catalog)
        assert {change.kind for change in apply(read(written))} == {"added"}
        text = export()
        assert {change.kind for change in apply(read(text))} == {"unchanged"}
        back = yaml.safe_load(text)
        for part in ("projects", "profiles", "pools"):
            for name, fields in catalog[part].items():
                assert {key: back[part][name][key] for key in fields} == fields
        for section in reversed(SECTIONS):
            section.table._default_manager.all().delete()
        assert {change.kind for change in apply(read(text))} == {"added"}
        assert export() == text
        transaction.set_rollback(True)
