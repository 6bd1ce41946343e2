"""One whole Berth for the tests that need every part of it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from devstack import berth
from devstack.say import Progress
from devstack.slurmconf import SlurmSpec

from tests.slurm.whole import Whole

# As in production, only faster: each of these is a wait that a person would not want in a test.
QUICK = {
    "BERTH_TICK_S": "1",
    "BERTH_SYNC_INTERVAL_S": "0.5",
    "BERTH_ALIVE_S": "4",
    "BERTH_HOLDER_STALE_S": "4",
    "BERTH_HEARTBEAT_S": "1",
    "BERTH_LAUNCH_BACKOFF_S": "0.2",
    "BERTH_PILOT_IDLE_S": "1",
    "BERTH_LEASE_WAIT_S": "2",
}


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Whole]:
    folder = tmp_path_factory.mktemp("whole")
    spec = SlurmSpec(nodes=2, sched_interval_s=1)
    with berth.running(folder, folder / "no-model", Progress(), spec, QUICK) as running:
        yield Whole(running)
