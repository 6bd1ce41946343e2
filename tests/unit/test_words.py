"""Names and docstrings of the source → what a stranger would stumble over (docs/design.md §1).

Ruff holds what it can hold (pyproject.toml, the rules that begin with D). Here is the rest: a class name
stands once in its room, a module is named by a noun, and a docstring reads without the name above it.
Each list of exceptions only shrinks: an entry that is no longer needed fails the test, too.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.unit.verbs import VERBS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ("portal", "scheduler", "gpuworker", "bin", "tests")

# A name that stands in several files of its room, and why it may.
SAME_NAME = {
    ("portal/console", "Command"): "Django looks for a class of this name in each module of commands",
    ("portal/catalog", "Kind"): "choices inside a model, named with it: Access.Kind, Model.Kind",
}
# Rooms whose docstrings are not yet all sentences that begin with a verb; none is left.
UNWRITTEN: frozenset[str] = frozenset()
# Modules whose names look like participles and are nouns.
NOUNS = {
    "bin/devstack/accounting": "Slurm's word for slurmdbd and its records",
    "bin/devstack/linting": "an activity; `lint` is the function in it",
    "bin/devstack/testing": "an activity; `test` would be looked for by pytest",
    "gpuworker/engines/wrapping": "what an engine's command is wrapped in, as in Slurm's --wrap",
    "gpuworker/staging": "the HPC centres' word for copies on node-local disks",
    "portal/console/management/commands/demo_seed": "a seed",
    "portal/policy/routing": "the field's word for the choice of a replica",
    "scheduler/observe/listing": "Slurm's answer to squeue",
    "scheduler/policy/staging": "the HPC centres' word for copies on node-local disks",
    "scheduler/policy/switching": "the field's word for changing the model on a GPU",
    "scheduler/slurm/listing": "Slurm's answer to squeue",
}
# Modules that are still named by a participle.
PARTICIPLES: frozenset[str] = frozenset()
PARTICIPLE = re.compile(
    r".+(ed|ing)|taken|kept|found|spent|held|sent|told|said|known|seen|given|shown|written"
)


class Docstring(NamedTuple):
    """A docstring: where it stands, of what, and its text."""

    path: Path
    line: int
    kind: str  # "class" or "function"
    name: str
    text: str

    def __str__(self) -> str:
        return f"{self.path}:{self.line} {self.name}: {self.text.splitlines()[0][:70]}"


@cache
def modules() -> list[tuple[Path, ast.Module]]:
    """Return every module of ours but the migrations, with its path from the root."""
    paths = (path for source in SOURCES for path in sorted((ROOT / source).rglob("*.py")))
    return [
        (path.relative_to(ROOT), ast.parse(path.read_text()))
        for path in paths
        if "migrations" not in path.parts
    ]


def room(path: Path) -> str:
    """Return the room within which a class name is unique: a package of the portal, else the package itself."""
    deep = path.parts[0] in ("portal", "bin") and len(path.parts) > 2
    return "/".join(path.parts[:2]) if deep else path.parts[0]


def folder(path: Path) -> str:
    """Return the two upper folders of a module, by which docstrings are held."""
    return "/".join(path.parts[:-1][:2])


def classes() -> dict[tuple[str, str], set[Path]]:
    """Return the modules in which each class name stands, by room and name; Django's `Meta` is left out."""
    found: dict[tuple[str, str], set[Path]] = {}
    for path, tree in modules():
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef) and node.name != "Meta" and path.parts[0] != "tests":
                found.setdefault((room(path), node.name), set()).add(path)
    return found


def docstrings() -> Iterator[Docstring]:
    """Yield the docstrings of classes and functions. The name of a test is its sentence."""
    for path, tree in modules():
        for node in ast.walk(tree):
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                continue
            text = ast.get_docstring(node)
            if text is not None and not node.name.startswith("test_"):
                kind = "class" if isinstance(node, ast.ClassDef) else "function"
                yield Docstring(path, node.lineno, kind, node.name, text)


def is_sentence(text: str, kind: str) -> bool:
    """Say whether a docstring reads without the name above it.

    A function's begins with a verb. A class may also be named by what one of it is: "A pilot of which …".
    Its first paragraph ends as a sentence does, or with the colon of a list that follows.
    """
    first = text.split(maxsplit=1)[0].rstrip(",:;.")
    opens = first in VERBS or (kind == "class" and first in ("A", "An", "The", "One"))
    return opens and text.split("\n\n")[0].rstrip().endswith((".", "?", "!", ":"))


def test_a_class_name_stands_once_in_its_room() -> None:
    twice = {where for where, paths in classes().items() if len(paths) > 1}
    assert sorted(twice - SAME_NAME.keys()) == []
    assert sorted(SAME_NAME.keys() - twice) == [], "no longer needed"


def test_a_docstring_begins_with_a_verb_and_is_a_sentence() -> None:
    wrong = [each for each in docstrings() if not is_sentence(each.text, each.kind)]
    rooms = {folder(each.path) for each in wrong}
    assert [str(each) for each in wrong if folder(each.path) not in UNWRITTEN] == []
    assert sorted(UNWRITTEN - rooms) == [], "no longer needed"


def test_a_module_is_named_by_a_noun() -> None:
    named = {str(path.with_suffix("")) for path, _ in modules() if not path.stem.startswith("test_")}
    participles = {name for name in named if PARTICIPLE.fullmatch(name.rpartition("/")[2])}
    known = NOUNS.keys() | PARTICIPLES
    assert sorted(participles - known) == []
    assert sorted(known - participles) == [], "no longer needed"


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("function", "Of a pilot whose job never ran."),
        ("function", "Returns the pilot."),
        ("function", "The pilot."),
        ("function", "Return the pilot"),
        ("class", "What a pilot is."),
    ],
)
def test_what_is_no_sentence_is_found(kind: str, text: str) -> None:
    assert not is_sentence(text, kind)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("function", "Return the pilot.\n\nNothing else is asked"),
        ("function", "End a pilot: its job\nhas never run."),
        ("class", "A pilot whose job never ran."),
        ("class", "Hold a pilot."),
    ],
)
def test_a_sentence_is_let_through(kind: str, text: str) -> None:
    assert is_sentence(text, kind)
