"""The control loop's world on a real private Slurm: the real clock, the real client, and a shell script as the agent."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis as redis_library
from devstack.slurm import Slurm

from portal.catalog.models import Profile
from scheduler.reconcile import run_once
from scheduler.slurm.cli import CliClient
from scheduler.slurm.protocol import SlurmClient
from tests.flow.tick_world import World


class RealWorld(World):
    """A world that ticks with the real clock and the real client."""

    client: SlurmClient = CliClient(limit_s=15)

    def tick(self, after_s: float = 0.0) -> None:
        assert run_once(self.config, self.redis, lambda prefix: self.client, time.time)


@contextlib.contextmanager
def on(
    cluster: Slurm, redis: redis_library.Redis, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[RealWorld]:
    """Make that cluster's world. Its jobs are cancelled at the end."""
    monkeypatch.setenv("SLURM_CONF", cluster.env()["SLURM_CONF"])
    agent = folder / "agent"
    agent.write_text("#!/bin/sh\necho the agent runs\nexec sleep 300\n")
    agent.chmod(0o755)
    world = RealWorld(redis)
    world.config = dataclasses.replace(
        world.config,
        spool=folder / "spool",
        agent_python=str(agent),
        slurm_min_interval_s=0.0,
        state_dir=folder / "state",
    )
    Profile.objects.update(cpus=1, mem_mb=8_000, walltime_min=10, walltime_least_min=2)
    yield world
    world.client.cancel([job.job_id for jobs in world.client.jobs().values() for job in jobs])
