"""One table of Slurm's errors: each release bears it out, and all who judge by words judge as it does."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest

from portal.fleet.slurm_words import refused_for_good
from scheduler.slurm import errors

LIBRARIES = sorted(Path("/usr/lib").glob("*/slurm*/libslurmfull.so"))


@pytest.mark.skipif(not LIBRARIES, reason="no Slurm is installed here")
def test_the_words_are_those_of_the_slurm_that_is_installed() -> None:
    library = ctypes.CDLL(str(LIBRARIES[0]))
    library.slurm_strerror.restype = ctypes.c_char_p
    said = {number: library.slurm_strerror(number).decode() for number in errors.TABLE}
    wrong = {n: (row.words, said[n]) for n, row in errors.TABLE.items() if row.words != said[n]}
    assert wrong == {}


@pytest.mark.parametrize("row", errors.TABLE.values(), ids=lambda row: row.name)
def test_words_and_numbers_are_judged_alike(row: errors.Errno) -> None:
    assert errors.meaning(row.number) == row.meaning
    assert errors.unheard(row.words) is (row.meaning == "unheard")
    assert refused_for_good(row.words) is (row.meaning == "for_good")


def test_a_number_without_a_row_is_a_refusal_where_slurm_speaks_of_a_job() -> None:
    for number in (2007, 2199, 2999, 7203, 9202):
        assert errors.meaning(number) == "for_now"
    for number in (0, 1, 511, 1999, 3000, 5999, 7001, 12000):
        assert errors.meaning(number) == "unheard"
    assert errors.words(2066) == "Invalid qos specification"
    assert "2199" in errors.words(2199)


@pytest.mark.parametrize(
    "text",
    [
        "ssh: connect to host login01 port 22: No route to host",
        "If munged is up, restart with --num-threads=10",
        "slurm_load_jobs error: Unable to contact slurm controller (connect failure)",
        "fatal: Could not establish a configuration source",
    ],
)
def test_what_commands_print_beside_the_table(text: str) -> None:
    assert errors.unheard(text)
