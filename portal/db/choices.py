"""A plain enum of states → the choices of a Django field, with a label for people.

Separate from the enums, which know no Django: the policies and the data plane use them too.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum


def choices(members: type[StrEnum], labels: Mapping[str, str] | None = None) -> list[tuple[str, str]]:
    """Return (value, label) of every member, in their order. A member without a label of its own is labelled with
    its name in title case, as Django's TextChoices does."""
    named = labels or {}
    return [
        (member.value, named.get(member.value, member.name.replace("_", " ").title())) for member in members
    ]
