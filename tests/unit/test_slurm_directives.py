"""The table of directives: no value of any field breaks out of its line, and all three clients ask for the same."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from portal.catalog import patterns
from scheduler.slurm import directives
from scheduler.slurm.directives import BadDirective
from scheduler.slurm.render import render
from scheduler.slurm.spec import JobSpec
from tests.job_specs import PLAIN, SPECS

OPTIONS = {
    *(row.option for row in directives.DIRECTIVES),
    *(row.option for row in directives.FIXED),
    *(row.option for row in directives.EXTRA.values()),
}
TEXTS = sorted(
    field.name
    for field in fields(JobSpec)
    if isinstance(getattr(PLAIN, field.name), str) and field.name != "prologue"
)
# What a shell, sbatch's own splitting of lines, Slurm's file name patterns and Apptainer give a meaning to.
MEANT = "\n\r\t\v\f\0 \"'\\#$`;&|<>(){}[]*?!~%=:,@/.-\u2028\u00a0é"
GOOD = sorted(
    {value for spec in SPECS.values() for value in (getattr(spec, name) for name in TEXTS) if value}
    | {value for spec in SPECS.values() for _, value in spec.extra}
)
hostile = st.one_of(
    st.text(max_size=20),
    st.builds(
        lambda good, at, put: good[: at % (len(good) + 1)] + put + good[at % (len(good) + 1) :],
        st.sampled_from(GOOD),
        st.integers(0, 99),
        st.text(st.sampled_from(MEANT), min_size=1, max_size=3),
    ),
    st.sampled_from(["gpu\n#SBATCH --uid=0", "a --wrap=id", "a\u0085b", "x=\n", "-", "--", "$(id)"]),
)


def asked(script: str) -> list[str]:
    return [line for line in re.split(r"[\n\r\v\f\u2028\u2029\x85]", script) if line.startswith("#SBATCH")]


def assert_is_one_directive_a_line(spec: JobSpec) -> None:
    script = render(spec)
    lines = asked(script)
    assert len(lines) == len(directives.sbatch_options(spec))
    for line in lines:
        # One word of letters that neither a shell nor sbatch takes for a quote, a comment or a blank.
        assert re.fullmatch(r"#SBATCH --[a-z-]+(=[A-Za-z0-9_.,:;@/+=*&|()\[\]!%-]+)?", line), line
        assert line.removeprefix("#SBATCH --").partition("=")[0] in OPTIONS
    # And outside of the directives, where a shell reads: each word stands as it is.
    for name in ("pilot", "log_path", "agent_python", "agent_home", "door_address", "door_ports", "scratch"):
        assert not re.search(r"[\s\"'\\$`;&|<>(){}*?!#]", str(getattr(spec, name)))


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(TEXTS), hostile)
def test_no_value_of_any_field_breaks_out_of_its_line(field: str, value: str) -> None:
    try:
        assert_is_one_directive_a_line(replace(PLAIN, **{field: value}))  # type: ignore[arg-type]
    except BadDirective as error:
        assert error.field == field


@settings(max_examples=1500, deadline=None)
@given(st.sampled_from(sorted(patterns.EXTRA)) | hostile, hostile)
def test_no_further_directive_breaks_out_of_its_line(name: str, value: str) -> None:
    try:
        assert_is_one_directive_a_line(replace(PLAIN, extra=((name, value),)))
    except BadDirective as error:
        assert error.field in ("extra", f"extra.{name}")


@settings(max_examples=500, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from([*sorted(patterns.EXTRA), "output", "uid", "gres", "strange"]),
        hostile | st.sampled_from(GOOD) | st.booleans() | st.integers(-2, 2_000_000) | st.none(),
        max_size=3,
    )
)
def test_what_the_catalog_takes_is_what_a_script_takes_and_the_other_way_round(extra: dict[str, Any]) -> None:
    refused = any(patterns.extra_refused(name, value) for name, value in extra.items())
    spec = replace(PLAIN, extra=patterns.extra_pairs(extra))
    if refused:
        with pytest.raises(BadDirective):
            render(spec)
    else:
        render(spec)


@pytest.mark.parametrize(
    "name",
    [
        *(
            "job-name",
            "output",
            "error",
            "requeue",
            "signal",
            "export",
            "array",
            "dependency",
            "wrap",
            "uid",
            "gid",
        ),
        *(
            "hold",
            "chdir",
            "container",
            "nodes",
            "ntasks",
            "clusters",
            "nodelist",
            "mail-user",
            "get-user-env",
        ),
    ],
)
def test_what_would_change_what_a_job_is_to_berth_is_refused_with_the_reason(name: str) -> None:
    assert patterns.extra_refused(name, "x").startswith(f"{name} cannot be set: ")
    with pytest.raises(BadDirective, match="cannot be set"):
        render(replace(PLAIN, extra=((name, "x"),)))


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"mem_mb": 100, "mem_per_gpu_mb": 100}, "mem_per_gpu_mb"),
        ({"nice": -1}, "nice"),
        ({"nice": "5"}, "nice"),
        ({"nodes": 0}, "nodes"),
        ({"exclusive": "yes"}, "exclusive"),
        ({"gpus_per_node": "gpu:a100:2"}, "gpus_per_node"),
        ({"licenses": "ansys 2"}, "licenses"),
        ({"constraint": "-a100"}, "constraint"),
        ({"extra": (("tmp", "1G"), ("tmp", "2G"))}, "extra"),
    ],
)
def test_values_that_contradict_or_are_none_are_refused_by_name(change: dict[str, Any], field: str) -> None:
    with pytest.raises(BadDirective) as caught:
        render(replace(PLAIN, **change))
    assert caught.value.field == field


def test_every_directive_that_a_profile_may_add_has_its_row() -> None:
    assert set(directives.EXTRA) == set(patterns.EXTRA)


@pytest.mark.parametrize("kind", ["rest", "native"])
def test_what_the_catalog_refuses_for_an_access_is_what_its_client_has_no_words_for(kind: str) -> None:
    rows = directives.EXTRA.items()
    assert {name for name, row in rows if getattr(row, kind) is None} == patterns.NO_WORDS[kind]
    assert patterns.extra_unsaid(dict.fromkeys(patterns.EXTRA, "x"), "cli") == []


@pytest.mark.parametrize("column", [directives.rest_fields, directives.native_fields])
def test_what_the_other_clients_send_is_plain_json_and_holds_as_much(column: Any) -> None:
    for spec in SPECS.values():
        try:
            sent = column(spec)
        except BadDirective as error:
            assert "has no words for" in str(error)
            sent = column(replace(spec, extra=()))
        assert json.loads(json.dumps(sent)) == sent
        assert sent["name"] == spec.name
        assert spec.constraint == sent.get("constraints", "")


def test_a_gres_and_gpus_per_node_are_one_field_elsewhere() -> None:
    both = replace(PLAIN, gres="shard:2", gpus_per_node="a100:1")
    assert directives.rest_fields(both)["tres_per_node"] == "gres/shard:2,gres/gpu:a100:1"
    assert directives.native_fields(both)["gres_per_node"] == {"shard": 2, "gpu:a100": 1}
