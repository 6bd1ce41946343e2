"""A batch in jobs that are preempted, cancelled and killed at random: the bench with fewer lines."""

from __future__ import annotations

from pathlib import Path

import pytest
from devstack.bench import Bench
from devstack.say import Progress

from tests.bench.preemption import measure

pytestmark = [pytest.mark.slurm, pytest.mark.nightly]


def test_no_line_is_lost_or_doubled(tmp_path: Path) -> None:
    figures = measure(Bench(tmp_path / "run", Progress()), lines=4_000, every_s=5.0, least=3)
    assert (figures["lost"], figures["doubled"]) == (0, 0)
    # What is interrupted has run for seconds, and there are minutes of work; a line in vain is one, not all that wait.
    assert figures["wasted_gpu_pct"] < 20
