"""Slurm's text becomes values, whatever strangers call their jobs; anything else is no answer."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scheduler.slurm import listing
from scheduler.slurm.protocol import Jobs, NoAnswer


def record(*fields: str) -> str:
    return listing.RECORD + listing.FIELD.join(fields) + "\n"


def line(job_id: str, name: str, state: str = "RUNNING", nodes: str = "1") -> str:
    times = ("2026-11-21T01:00:00", "2026-11-21T01:00:05", "N/A")
    return record(job_id, state, "gpu", *times, "gpu01", "None", nodes, name)


@pytest.mark.parametrize(("said", "count"), [("2", 2), ("1-2", None), ("", None), ("N/A", None)])
def test_how_many_nodes_a_job_has_is_known_or_not(said: str, count: int | None) -> None:
    ((job,),) = listing.jobs(line("7", "berth-x-1", nodes=said)).values()
    assert job.node_count == count


def test_times_are_utc_and_unknown_ones_are_none() -> None:
    (job,) = listing.jobs(line("7", "berth-x-1"))["berth-x-1"]
    assert (job.submitted_at, job.started_at, job.ends_at) == (1795222800.0, 1795222805.0, None)


def test_array_and_heterogeneous_jobs_of_others_do_not_spoil_the_listing() -> None:
    found = listing.jobs(line("12_[3-4%1]", "array") + line("13+1", "het") + line("14", "berth-x-1"))
    assert [found[name][0].job_id for name in ("array", "het", "berth-x-1")] == [12, 13, 14]


@given(st.text(st.characters(exclude_characters="\x1e\x1f", exclude_categories=["Cs"]), max_size=40))
def test_any_name_survives(name: str) -> None:
    found = listing.jobs(line("7", name) + line("8", "berth-x-1"))
    assert found["berth-x-1"][0].job_id == 8
    assert len(found) <= 2


@given(st.text(max_size=60))
def test_text_that_is_no_listing_is_no_answer_and_never_an_error(text: str) -> None:
    try:
        found: Jobs = listing.jobs(text)
    except NoAnswer:
        return
    assert found == {}
    assert not text.strip()


def test_partitions_are_gathered_from_their_groups_of_nodes() -> None:
    text = record("gpu", "up", "4:00:00", "3", "idle", "gpu:a100:4", "8", "16000", "a100,ib")
    text += record("gpu", "up", "4:00:00", "1", "down*", "(null)", "8+", "16000", "(null)")
    text += record("long", "inact", "infinite", "1", "idle", "(null)", "8", "16000", "(null)")
    found = listing.partitions(text)
    assert (found["gpu"].up, found["gpu"].limit_min, [g.count for g in found["gpu"].groups]) == (
        True,
        240,
        [3, 1],
    )
    assert [g.features for g in found["gpu"].groups] == [("a100", "ib"), ()]
    assert (found["long"].up, found["long"].limit_min, found["long"].groups[0].gres) == (False, None, "")


def test_accounting_lines() -> None:
    found = listing.usage("12|CANCELLED by 1000|0:15|61|gpu01\n")
    assert (found[12].state, found[12].elapsed_s) == ("CANCELLED", 61)
    with pytest.raises(NoAnswer):
        listing.usage("Slurm accounting storage is disabled\n")


@pytest.mark.parametrize(
    "odd",
    [
        "13|FAILED|1:0|0|None assigned",
        "14_[3-4]|PENDING|0:0|0|None assigned",
        "15|||",
        "16|FAILED|1:0||",
        "a warning",
    ],
)
def test_one_odd_row_of_accounting_does_not_spoil_the_others(odd: str) -> None:
    found = listing.usage(f"{odd}\n12|COMPLETED|0:0|61|gpu01\n")
    assert (found[12].state, found[12].nodes) == ("COMPLETED", "gpu01")
    assert all(row.nodes == "" for job_id, row in found.items() if job_id != 12)


def test_accounts_are_gathered_over_clusters_and_partitions() -> None:
    assert listing.accounts("sea|normal,quick\nland|\nsea|long\n") == {
        "land": [],
        "sea": ["long", "normal", "quick"],
    }
    assert listing.accounts("") == {}
    with pytest.raises(NoAnswer):
        listing.accounts("You are not running a supported accounting_storage plugin\n")
