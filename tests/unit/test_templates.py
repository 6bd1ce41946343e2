"""Hold the pages' templates to lines that people can read and compare."""

from __future__ import annotations

from pathlib import Path

import pytest
from devstack import checkout

LONGEST = 140
TEMPLATES = sorted((checkout.ROOT / "portal").rglob("templates/**/*.html"))


def too_long(text: str) -> list[int]:
    """Return the numbers, from 1, of the lines that are longer than a template may have."""
    return [number for number, line in enumerate(text.splitlines(), 1) if len(line) > LONGEST]


def test_there_are_templates_to_look_at() -> None:
    assert len(TEMPLATES) > 40


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(checkout.ROOT)))
def test_no_line_of_a_template_is_longer_than_140_characters(path: Path) -> None:
    assert too_long(path.read_text(encoding="utf-8")) == []


def test_a_longer_line_would_be_found() -> None:
    assert too_long("x" * LONGEST + "\n" + "x" * (LONGEST + 1) + "\n") == [2]
