"""What the form of a profile takes, a job's script takes, too: no field is refused only once a job is to be submitted."""

from __future__ import annotations

import uuid
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.catalog.models import Profile
from portal.config import config
from portal.fleet.models import Pilot
from scheduler.jobs.spec import spec_of
from scheduler.slurm.render import render

NUMBERS = ("cpus", "gpus", "nodes", "mem_mb", "walltime_min", "walltime_least_min", "nice")
TEXTS = {
    "partition": "gpu,gpu-long",
    "account": "climate",
    "qos": "high",
    "gpu_type": "1g.10gb",
    "constraint": "a100&nvlink",
    "reservation": "ours,theirs",
    "licenses": "ansys:2,matlab@flex",
    "wckey": "waves",
    "door_address": "10.0.0.0/8",
    "door_ports": "20000-20100",
    "portal_url_from_nodes": "https://berth.example.org:8443/x",
    "scratch": "/local/scratch",
    "agent_python": "/opt/berth/bin/python",
    "prologue": "module load cuda",
}
# What a shell, sbatch, Slurm's patterns of file names and Python's notion of a digit give a meaning to.
MEANT = "\n\r\0 \"'\\#$`;&|<>(){}[]*?!~%=:,@/.-_\u2028é٣"
hostile = st.builds(
    lambda good, at, put, cut: good[: at % (len(good) + 1)] + put + good[at % (len(good) + 1) + cut :],
    st.sampled_from(sorted(TEXTS.values())),
    st.integers(0, 99),
    st.text(st.sampled_from(MEANT), max_size=3),
    st.integers(0, 3),
)


def taken(**fields: Any) -> Profile | None:
    """Return the profile as the form leaves it; None where it refuses it. Switched off, so that no table is asked."""
    profile = Profile(name="a", enabled=False, **{"partition": "gpu", **fields})
    try:
        profile.clean_fields()
        profile.clean()
    except ValidationError:
        return None
    return profile


def script(profile: Profile) -> str:
    """Render the script of a profile. Raise BadDirective."""
    name = uuid.UUID(int=1)
    pilot = Pilot(
        id=name, profile=profile, job_name=f"berth-ab12-{name}", gpus=profile.gpus * profile.nodes,
        nodes=profile.nodes, mem_mb=profile.mem_mb, walltime_min=profile.walltime_min,
    )  # fmt: skip
    return render(spec_of(pilot, config()))


@settings(max_examples=1500, deadline=None)
@given(
    st.sampled_from(sorted(TEXTS)),
    st.one_of(hostile, st.text(max_size=12)),
    st.sampled_from(["gres", "gpus-per-node"]),
)
def test_a_text_that_the_form_takes_is_one_that_a_script_takes(field: str, value: str, asked: str) -> None:
    if (profile := taken(**{field: value, "gpu_request": asked})) is not None:
        script(profile)


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(NUMBERS),
    st.integers(0, 2**31 - 1) | st.integers(0, 40_000),
    st.sampled_from(["mem", "mem-per-gpu", "none"]),
)
def test_a_number_that_the_form_takes_is_one_that_a_script_takes(field: str, value: int, memory: str) -> None:
    profile = taken(**{field: value, "mem_request": memory})
    # The database's constraints see to these two.
    if profile is None or profile.walltime_least_min > profile.walltime_min:
        return
    if profile.gpus or memory != "mem-per-gpu":
        script(profile)


def test_each_of_these_texts_is_taken_by_both() -> None:
    """Else the tests above would say nothing."""
    for field, value in TEXTS.items():
        if field != "partition":
            profile = taken(**{field: value})
            assert profile is not None, field
            assert script(profile)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("scratch", "/local scratch"),
        ("scratch", "/tmp/$USER x"),
        ("scratch", "/"),
        ("scratch", "/a/../b"),
        ("door_address", "10.0.0.0/255.0.0.0"),
        ("door_ports", "٢٠٠٠٠-٢٠١٠٠"),
        ("prologue", "true\0"),
        ("agent_python", "/opt/my python"),
        ("cpus", 5000),
        ("nodes", 2000),
        ("mem_mb", 2**30),
        ("walltime_min", 10**6),
    ],
)
def test_what_a_script_refuses_the_form_refuses(field: str, value: object) -> None:
    assert taken(**{field: value}) is None


def test_a_slash_at_the_end_of_scratch_means_nothing() -> None:
    profile = taken(scratch="/scratch/")
    assert profile is not None and profile.scratch == "/scratch"
    assert "/scratch" in script(profile)
