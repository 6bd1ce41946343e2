"""The catalog's tables → the text of a file that `changes` finds nothing to change in.

Every field is written, also those that have their default, so that applying the file later puts all of it back.
"""

from __future__ import annotations

from typing import Any

import yaml

from portal.catalog_file.sections import SECTIONS

HEAD = "# Berth's catalog. Apply it with: manage.py catalog apply FILE\n"


def export() -> str:
    whole: dict[str, Any] = {}
    for section in SECTIONS:
        place = whole
        for step in section.path[:-1]:
            place = place.setdefault(step, {})
        place[section.path[-1]] = {
            name: {field: _written(value) for field, value in section.plain(row).items()}
            for name, row in section.rows().items()
        }
    return HEAD + yaml.safe_dump(whole, sort_keys=False, allow_unicode=True, width=110)


def _written(value: Any) -> Any:
    """Return the value as YAML knows it; choices are strings of a kind that it does not know."""
    return str(value) if isinstance(value, str) else value
