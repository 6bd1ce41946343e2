"""A catalog file → rows, and what that changed. One transaction: a file with one mistake changes nothing.

What the file does not mention stays: fields keep their values, rows are deleted with `prune` only, and then only in
sections that the file has, and never what is in use. The rules are those of the admin (`full_clean`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from django.core.exceptions import NON_FIELD_ERRORS, ValidationError
from django.db import IntegrityError, transaction

from portal.catalog import doubts
from portal.catalog.models import Model
from portal.catalog_file.sections import FITS, SECTIONS, Section
from portal.catalog_file.tree import BadFile, Path, Tree, Wrong
from portal.catalog_file.use import in_use
from portal.redis import hints

Kind = Literal["added", "changed", "unchanged", "deleted", "kept"]


@dataclass(frozen=True, slots=True)
class Change:
    """The outcome of one row. `fields`: name → old and new value; `why`: of one that stays although it was to go.
    `doubts`: what could not be checked, or may go wrong."""

    kind: Kind
    word: str
    name: str
    fields: dict[str, tuple[Any, Any]] = field(default_factory=dict)
    why: str = ""
    doubts: str = ""
    row: Any = field(default=None, repr=False, compare=False)


def apply(tree: Tree, *, prune: bool = False, dry_run: bool = False) -> list[Change]:
    """Apply the file's rows to the catalog, and return what changed. Raise BadFile."""
    wrongs = [*_strangers(tree)]
    if wrongs:
        raise BadFile(wrongs)
    with transaction.atomic():
        changes: list[Change] = []
        for section in SECTIONS:
            if prune and section.table is Model:
                # Before the new ones: of a pool's language models one is enabled at a time.
                changes += [change for change in _pruned(tree, (section,)) if change.kind == "deleted"]
            # A mistake in one section would be told again by every row that refers to it.
            _apply_section(section, tree, changes, wrongs)
            if wrongs:
                raise BadFile(wrongs)
        if prune:
            changes += _pruned(tree, SECTIONS)
        # At the end: a pool may stand further down than the profile that it no longer fits in.
        changes = [
            replace(change, doubts=doubts.of(change.row)) if change.kind in ("added", "changed") else change
            for change in changes
        ]
        transaction.on_commit(hints.directory_changed)
        transaction.on_commit(hints.tick_soon)
        transaction.set_rollback(dry_run)
    return changes


def _strangers(tree: Tree) -> Iterator[Wrong]:
    """Yield the keys that mean nothing here."""
    known = {section.path[:depth] for section in SECTIONS for depth in range(1, len(section.path) + 1)}
    tops = sorted({path[0] for path in known})
    for top, inside in tree.values.items():
        if (str(top),) not in known:
            yield tree.wrong((str(top),), f"Unknown section; the sections are: {', '.join(tops)}.")
        elif inside is not None and not isinstance(inside, dict):
            yield tree.wrong((str(top),), "Write rows by their names here.")
        elif inside and not any(section.path == (top,) for section in SECTIONS):
            parts = sorted(path[1] for path in known if path[0] == top and len(path) == 2)
            for name in inside:
                if (top, name) not in known:
                    yield tree.wrong((top, str(name)), f"Write one of: {', '.join(parts)}.")


def _mentioned(section: Section, tree: Tree) -> Any:
    """Return the section's part of the file; None where it has none."""
    place: Any = tree.values
    for step in section.path:
        if not isinstance(place, dict) or step not in place:
            return None
        place = place[step]
    return {} if place is None else place


def _apply_section(section: Section, tree: Tree, changes: list[Change], wrongs: list[Wrong]) -> None:
    rows = _mentioned(section, tree)
    if rows is None:
        return
    if not isinstance(rows, dict):
        wrongs.append(tree.wrong(section.path, "Write rows by their names here."))
        return
    known = section.rows()
    # What is disabled makes room: of a pool's language models one is enabled at a time.
    for name, said in sorted(rows.items(), key=_is_enabled):
        path = (*section.path, str(name))
        if not isinstance(name, str):
            wrongs.append(tree.wrong(path, "A name is text: write it in quotes."))
        elif said is not None and not isinstance(said, dict):
            wrongs.append(tree.wrong(path, "Write its fields here, such as 'name: value'."))
        else:
            try:
                changes.append(_apply_row(section, name, said or {}, known.get(name)))
            except ValidationError as error:
                wrongs += _told(tree, section, path, error)


def _is_enabled(row: tuple[Any, Any]) -> bool:
    said = row[1]
    return not (isinstance(said, dict) and said.get("enabled") is False)


def _apply_row(section: Section, name: str, said: dict[str, Any], row: Any) -> Change:
    """Apply one row. Raise ValidationError with the fields that are wrong."""
    values = _checked(section, said)
    added = row is None
    if added:
        if missing := [field for field in section.required() if field not in said]:
            raise ValidationError(dict.fromkeys(missing, "A new row needs this."))
        row = section.new(name)
    before = section.plain(row)
    if FITS in values:  # types of GPU that the file does not name stay as they were measured
        values[FITS] = before[FITS] | values[FITS]
    changed = {key: (before[key], value) for key, value in values.items() if not _same(before[key], value)}
    if not added and not changed:
        return Change("unchanged", section.word, name)
    single = {key: new for key, (_, new) in changed.items() if not section.is_linked(key)}
    _each(single, lambda key: section.set(row, key, single[key]))
    row.full_clean()
    try:
        with transaction.atomic():
            row.save()
    except IntegrityError as error:
        raise ValidationError(str(error).splitlines()[0]) from None
    _each([key for key in changed if section.is_linked(key)], lambda key: section.link(row, key, values[key]))
    if added:
        shown = {key: (None, value) for key, value in values.items()}
        return Change("added", section.word, name, shown, row=row)
    return Change("changed", section.word, name, changed, row=row)


def _checked(section: Section, said: dict[str, Any]) -> dict[str, Any]:
    """Return the row's values, checked. Raise ValidationError."""
    if strange := sorted(str(key) for key in said if key not in section.fields):
        known = ", ".join(section.fields)
        text = f"A {section.word} has no such field; it has: {known}."
        raise ValidationError(dict.fromkeys(strange, text))
    values: dict[str, Any] = {}

    def read(key: str) -> None:
        values[key] = section.read(key, said[key])

    _each(said, read)
    return values


def _each(keys: Any, act: Any) -> None:
    """Check all fields, also after one that is wrong. Raise ValidationError with each field's own words."""
    wrong: dict[str, list[str]] = {}
    for key in keys:
        try:
            act(key)
        except ValidationError as error:
            wrong[key] = error.messages
    if wrong:
        raise ValidationError(wrong)


def _told(tree: Tree, section: Section, path: Path, error: ValidationError) -> Iterator[Wrong]:
    if not hasattr(error, "error_dict"):
        yield tree.wrong(path, " ".join(error.messages))
        return
    for name, messages in error.message_dict.items():
        own = name not in (NON_FIELD_ERRORS, section.key)
        yield tree.wrong((*path, name) if own else path, " ".join(messages))


def _pruned(tree: Tree, sections: Sequence[Section]) -> Iterator[Change]:
    """Delete the rows that the file does not name; what refers goes before what it refers to."""
    for section in reversed(sections):
        mentioned = _mentioned(section, tree)
        if mentioned is None:
            continue
        for name, row in section.rows().items():
            if name in mentioned:
                continue
            if why := in_use(row):
                yield Change("kept", section.word, name, why=why)
            else:
                row.delete()
                yield Change("deleted", section.word, name)


def _same(before: Any, after: Any) -> bool:
    """Compare two values, not by ==, for which 1 is True."""
    return json.dumps(before, sort_keys=True) == json.dumps(after, sort_keys=True)
