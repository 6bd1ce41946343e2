"""Rows of catalog and fleet → the phase of each pool, in the words that people see. SELECTs only, no Django."""

from __future__ import annotations

from collections.abc import Sequence

from psycopg2.extensions import cursor as Cursor

from portal.fleet.explain import explain
from portal.fleet.facts import read_facts
from portal.fleet.phase import Phase


def read_phases(cur: Cursor, now: float, only: Sequence[str] | None = None) -> dict[str, Phase]:
    """Read how each pool is doing, in the words people see; of some, or of all."""
    return {pool: explain(facts, now) for pool, facts in read_facts(cur, only).items()}
