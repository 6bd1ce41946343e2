"""Slurm's lists of nodes, as SLURM_JOB_NODELIST has them."""

from __future__ import annotations

import pytest

from gpuworker.hostlist import BadHostlist, expand


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("gpu01", ["gpu01"]),
        ("gpu[01-03]", ["gpu01", "gpu02", "gpu03"]),
        ("gpu[01-02,07],login", ["gpu01", "gpu02", "gpu07", "login"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
        ("n[098-101]", ["n098", "n099", "n100", "n101"]),
        ("a[1,3]", ["a1", "a3"]),
        ("rack[1-2]n[1-2]-ib", ["rack1n1-ib", "rack1n2-ib", "rack2n1-ib", "rack2n2-ib"]),
        ("b2,a1", ["b2", "a1"]),
        ("", []),
    ],
)
def test_names_in_slurms_order(text: str, names: list[str]) -> None:
    assert expand(text) == names


@pytest.mark.parametrize(
    "text",
    ["gpu[01-", "gpu01]", "gpu[[1]]", "gpu[3-1]", "gpu[a-b]", "gpu[]", "n[1-999999999]", "n[1-70]m[1-70]"],
)
def test_what_is_no_list_is_said_and_never_grows_without_bound(text: str) -> None:
    with pytest.raises(BadHostlist):
        expand(text)
