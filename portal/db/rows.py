"""Rows of a plain cursor → values whose fields are named as the columns are, so that nobody counts positions.

Separate from the questions, which say what their columns are called: a column that is added in the middle of a SELECT
then moves nothing, and one that is misspelt is found by the first row.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from psycopg2.extensions import cursor as Cursor

R = TypeVar("R")


def named(cur: Cursor, kind: Callable[..., R], rows: Iterable[Sequence[Any]] | None = None) -> list[R]:
    """Return all rows of the last statement, or those that were fetched of it already, as `kind`: a NamedTuple or a
    dataclass with a field for each column, or a function that takes them by name. Raise TypeError where the columns
    are other ones."""
    found = cur.fetchall() if rows is None else rows
    columns = tuple(column.name for column in cur.description or ())
    if columns == _fields(kind):
        return [kind(*row) for row in found]
    return [kind(**dict(zip(columns, row, strict=True))) for row in found]


def first(cur: Cursor, kind: Callable[..., R]) -> R | None:
    """Return the next row of the last statement as `kind`, or None where there is none. Raise TypeError as `named`."""
    row = cur.fetchone()
    return None if row is None else named(cur, kind, [row])[0]


@functools.cache
def _fields(kind: Any) -> tuple[str, ...]:
    names: tuple[str, ...] | None = getattr(kind, "_fields", None)
    if names is None and dataclasses.is_dataclass(kind):
        names = tuple(field.name for field in dataclasses.fields(kind))
    return names or ()
