"""Turns the environment and this file's place into the few folders everything else starts from."""

from __future__ import annotations

import os
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent


def cache_dir() -> Path:
    """Return the cache: outside the clone, so that a fresh clone does not pay for gigabytes of
    environments again."""
    if chosen := os.environ.get("BERTH_CACHE"):
        return Path(chosen).resolve()
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "berth"


def run_dir() -> Path:
    """Return the folder where running services keep their files."""
    return Path(os.environ.get("BERTH_RUN") or ROOT / ".run").resolve()
