"""Hold CONTRIBUTING.md to the tree: a newcomer who follows it finds what it names."""

from __future__ import annotations

import re

import pytest
from devstack import checkout

TEXT = (checkout.ROOT / "CONTRIBUTING.md").read_text()
# In backticks, and with a slash or a suffix; names in capitals are for the reader to choose.
PATH = re.compile(r"`((?:[\w.-]+/)*[\w.-]+(?:/|\.(?:py|md|html|toml)))`")


def missing(paths: list[str]) -> list[str]:
    """Return the paths that are neither a file nor a folder of the checkout."""
    return [path for path in paths if "NOUN" not in path and not (checkout.ROOT / path).exists()]


def named() -> list[str]:
    """Return the paths that the page names, those of rooms inside of a room left out."""
    return [
        path for path in PATH.findall(TEXT) if path.partition("/")[2] and not path.startswith("dashboard/")
    ]


def test_every_path_that_it_names_exists() -> None:
    assert len(named()) > 40
    assert missing(named()) == []


@pytest.mark.parametrize("program", sorted(set(re.findall(r"\bbin/(\w+)", TEXT)) - {"devstack"}))
def test_every_program_that_it_names_exists(program: str) -> None:
    assert (checkout.ROOT / "bin" / program).exists() or program == "python"


def test_every_room_of_the_portal_has_its_sentence() -> None:
    rooms = {path.name for path in (checkout.ROOT / "portal").iterdir() if (path / "__init__.py").exists()}
    assert sorted(room for room in rooms if f"`portal/{room}/`" not in TEXT) == []


def test_a_path_that_is_not_there_would_be_found() -> None:
    assert missing(["portal/nowhere.py"]) == ["portal/nowhere.py"]
