"""Rows of a cursor come out by the names of their columns, whatever their order; a name that is wrong is an error."""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest

from portal.db.rows import first, named


class Pair(NamedTuple):
    name: str
    size: int


@dataclass(frozen=True, slots=True)
class Sized:
    name: str
    size: int


class FakeCursor:
    """The last statement's columns and rows, as psycopg2 has them."""

    def __init__(self, columns: str, *rows: tuple[Any, ...]) -> None:
        self.description = [SimpleNamespace(name=name) for name in columns.split()]
        self._rows = list(rows)

    def fetchall(self) -> list[tuple[Any, ...]]:
        rows, self._rows = self._rows, []
        return rows

    def fetchone(self) -> tuple[Any, ...] | None:
        return self._rows.pop(0) if self._rows else None


@pytest.mark.parametrize("kind", [Pair, Sized])
@pytest.mark.parametrize(("columns", "row"), [("name size", ("a", 1)), ("size name", (1, "a"))])
def test_a_column_goes_where_its_name_says(kind: Any, columns: str, row: tuple[Any, ...]) -> None:
    cur: Any = FakeCursor(columns, row)
    assert named(cur, kind) == [kind(name="a", size=1)]


def test_rows_that_were_fetched_already_are_named_too() -> None:
    cur: Any = FakeCursor("size name")
    assert named(cur, Pair, [(1, "a"), (2, "b")]) == [Pair("a", 1), Pair("b", 2)]


def test_one_row_or_none() -> None:
    cur: Any = FakeCursor("name size", ("a", 1))
    assert first(cur, Pair) == Pair("a", 1) and first(cur, Pair) is None


@pytest.mark.parametrize("columns", ["name length", "name size more", "name"])
def test_other_columns_are_an_error(columns: str) -> None:
    cur: Any = FakeCursor(columns, tuple(range(len(columns.split()))))
    with pytest.raises(TypeError):
        named(cur, Pair)
