"""A world for the control loop: real tables and Redis, a clock that tests move, and a Slurm and agents that
do what they are told. The process boundary to real Slurm commands is tested in tests/slurm.
"""

from __future__ import annotations

import dataclasses
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import redis as redis_library

from gpuworker.wire import ObservedReplica, Sync
from portal.catalog.models import Engine, Environment, Model, Pool, Profile
from portal.config import Config, config
from portal.db.transaction import moving
from portal.fleet import transitions as fleet
from portal.fleet.models import Cluster, Command, Pilot, Replica, WayState
from portal.ledger import transitions as ledger
from portal.redis import keys
from scheduler.act.actor import Actor
from scheduler.observe.ways import Site, site
from scheduler.reconcile import run_once
from scheduler.slurm import fan_out, patience
from scheduler.slurm.protocol import (
    JobInfo,
    Jobs,
    NoAnswer,
    PartitionInfo,
    Rejected,
    ReservationInfo,
    UsageInfo,
)
from scheduler.slurm.spec import JobSpec
from scheduler.slurm.way import Way


class FakeSlurm:
    """A Slurm whose jobs are in a list.

    `silent`: what every verb raises NoAnswer with. `on_submit`: runs after a job is made. `forbidden`: jobs
    that it refuses to cancel; `denied`: how often it has.
    """

    def __init__(self) -> None:
        self.listed: list[JobInfo] = []
        self.submitted: list[JobSpec] = []
        self.scripts: list[str] = []
        self.cancelled: list[int] = []
        self.forgotten: list[str] = []
        self.asked = 0
        self.silent = ""
        self.refuse = ""
        self.forbidden: set[int] = set()
        self.denied = 0
        self.described: dict[str, PartitionInfo] = {}
        self.may_use: dict[str, list[str]] = {}
        self.reserved: dict[str, ReservationInfo] = {}
        self.starts_at: float | None = None
        self.estimated: list[JobSpec] = []
        self.on_submit: Callable[[], None] = lambda: None
        self._next_id = 100

    def submit(self, script: str, spec: JobSpec) -> int:
        self._hear()
        if self.refuse:
            raise Rejected(self.refuse)
        self.submitted.append(spec)
        self.scripts.append(script)
        job_id = self.add(spec.name)
        self.on_submit()
        return job_id

    def jobs(self) -> Jobs:
        self.asked += 1
        self._hear()
        found: dict[str, list[JobInfo]] = {}
        for job in sorted(self.listed, key=lambda job: job.job_id):
            found.setdefault(job.name, []).append(job)
        return {name: tuple(jobs) for name, jobs in found.items()}

    def cancel(self, job_ids: list[int]) -> None:
        self._hear()
        may = [job_id for job_id in job_ids if job_id not in self.forbidden]
        self.cancelled += may
        for job_id in may:
            self.set(job_id, "CANCELLED")
        if len(may) < len(job_ids):
            self.denied += 1
            raise Rejected("Access/permission denied")

    def partitions(self) -> dict[str, PartitionInfo]:
        self._hear()
        return self.described

    def reservations(self) -> dict[str, ReservationInfo]:
        self._hear()
        return self.reserved

    def accounts(self) -> dict[str, list[str]]:
        self._hear()
        return self.may_use

    def estimate_start(self, spec: JobSpec) -> float:
        self._hear()
        self.estimated.append(spec)
        if self.starts_at is None:
            raise Rejected(self.refuse or "Requested node configuration is not available")
        return self.starts_at

    def lose_its_memory(self) -> None:
        """Lose what a controller loses that died before it saved its last moments: jobs are gone, numbers
        come again."""
        self.listed.clear()
        self._next_id = 100

    def usage(self, job_ids: list[int]) -> dict[int, UsageInfo]:
        raise NoAnswer("not asked here")

    def log_tail(self, path: str, max_bytes: int) -> str:
        self._hear()
        return f"the end of {path}"

    def forget(self, secret_path: str) -> None:
        self._hear()
        self.forgotten.append(secret_path)

    def add(self, name: str, state: str = "PENDING", node_count: int | None = None) -> int:
        self._next_id += 1
        self.listed.append(
            JobInfo(self._next_id, name, state, "None", "gpu", "", None, None, None, node_count)
        )
        return self._next_id

    def set(self, job_id: int, state: str, reason: str = "None") -> None:
        self.listed = [
            dataclasses.replace(job, state=state, reason=reason) if job.job_id == job_id else job
            for job in self.listed
        ]

    def vanish(self, job_id: int) -> None:
        self.listed = [job for job in self.listed if job.job_id != job_id]

    def _hear(self) -> None:
        if self.silent:
            raise NoAnswer(self.silent)


@dataclass
class World:
    redis: redis_library.Redis
    slurm: FakeSlurm = field(default_factory=FakeSlurm)
    now: float = field(default_factory=lambda: float(int(time.time())))  # whole: a datetime holds it exactly
    seq: int = 0
    slurms: dict[str, FakeSlurm] = field(default_factory=dict)  # by name of an access or of a cluster

    def __post_init__(self) -> None:
        fan_out._under_way.clear()  # of an earlier test, which left a way to itself
        patience._left_alone.clear()
        self.config: Config = dataclasses.replace(
            config(), slurm_min_interval_s=1.0, state_dir=config().state_dir / uuid.uuid4().hex
        )
        self.profile = Profile.objects.create(
            name="gpu", partition="gpu", gpu_type="a100", gpus=2, mem_mb=16_000, max_pilots=2
        )
        self.environment = Environment.objects.create(name="echo", engine=Engine.ECHO)
        self.pool = self.add_pool("llama")

    def add_pool(self, name: str, **changes: Any) -> Pool:
        pool = Pool.objects.create(
            name=name, environment=self.environment, **{"keep_alive_s": 100, "load_estimate_s": 1, **changes}
        )
        pool.profiles.add(self.profile)
        Model.objects.create(name=f"{name}-model", pool=pool, path="/models/llama")
        return pool

    def at(self) -> datetime:
        return datetime.fromtimestamp(self.now, UTC)

    def tick(self, after_s: float = 2.0) -> None:
        self.now += after_s
        assert run_once(self.config, self.redis, self.client_for, lambda: self.now)

    def client_for(self, way: Way) -> FakeSlurm:
        """Return the client of the access, of the cluster, or the only one."""
        return self.slurms.get(way.name) or self.slurms.get(way.cluster) or self.slurm

    def ask(self, pool: str = "llama", lane: str = "async", holder: str | None = None) -> UUID:
        request = ledger.NewRequest(
            id=uuid.uuid4(), pool=pool, model=f"{pool}-model", project_id=1, user_id=1, token_id=None,
            api="/v1/completions", stream=False, lane=lane, order_key=self.now, holder=holder,
            accepted_at=self.at(), body=b"{}",
        )  # fmt: skip
        with moving() as cur:
            ledger.accept(cur, [request])
        return request.id

    def give(self, kind: Command.Kind, **target: Any) -> Command:
        return Command.objects.create(kind=kind, **target)

    def pilot(self) -> Pilot:
        """Return the only live pilot."""
        return Pilot.objects.exclude(state="ended").get()

    def replica(self, pilot: Pilot) -> Replica:
        return Replica.objects.get(pilot=pilot)

    def cluster(self, name: str = "main") -> Cluster:
        return Cluster.objects.get(pk=name)

    def way(self, cluster: str = "main", name: str = "") -> WayState:
        return WayState.objects.get(cluster=cluster, name=name)

    def site(self) -> Site:
        return site(self.config)

    def actor(self) -> Actor:
        """Return who carries out decisions at this moment, outside a tick."""
        return Actor(self.site(), self.client_for, self.config, lambda: self.now, self.redis)

    def start(self, pilot: Pilot) -> None:
        """Let Slurm run the job and its agent register."""
        pilot.refresh_from_db()
        assert pilot.job_id is not None
        self.slurm.set(pilot.job_id, "RUNNING")
        said = fleet.Registration(pilot.pk, pilot.job_id, "gpu01", "http://x", self.at(), ("0", "1"), "1")
        with moving() as cur:
            assert fleet.register(cur, said, self.at())

    def report(
        self,
        pilot: Pilot,
        state: str = "hot",
        *,
        in_flight: int = 0,
        idle_for_s: float = 0.0,
        can_sleep: int = 0,
        draining: bool = False,
        **states: str,
    ) -> None:
        """Write the agent's sync down as the worker API does. `states`: by pool, where they differ."""
        pilot.refresh_from_db()
        assert pilot.job_id is not None
        self.seq += 1
        rows = Replica.objects.filter(pilot=pilot).exclude(state__in=("stopped", "failed"))
        observed = [
            ObservedReplica(
                id=str(row.pk), pool=row.pool_id, model=row.model, phase="", cap=row.cap,
                state=states.get(row.pool_id, state),  # type: ignore[arg-type]
                held=in_flight, filler=0, started_at=self.now - 1, hot_at=self.now - 1,
                idle_since=None if in_flight else self.now - idle_for_s,
                error="it broke\nTraceback" if state == "failed" else "",
                crashes=0, mem_mb=100, engine_version="1", can_sleep=can_sleep,
            )
            for row in rows
        ]  # fmt: skip
        served = ("hot", "draining", "asleep")
        seen = [
            fleet.Seen(
                row.pk,
                report.state,
                "",
                self.at(),
                self.at() if report.state in served else None,
                report.error,
                "1",
            )
            for row, report in zip(rows, observed, strict=True)
        ]
        with moving() as cur:
            fleet.seen(cur, pilot.pk, seen, self.at())
        sync = Sync(
            pilot=str(pilot.pk), job_id=pilot.job_id, seq=self.seq, at=self.now, draining=draining, ending="",
            replicas=observed, rows=[], log_tail=None,
        )  # fmt: skip
        self.redis.set(
            keys.SYNC.of(pilot.pk),
            json.dumps({**dataclasses.asdict(sync), "received_at": self.now}),
            ex=600,
        )

    def says_ending(self, pilot: Pilot, reason: str = "drained") -> None:
        with moving() as cur:
            fleet.said_ending(cur, pilot.pk, reason)

    def hot_pilot(self) -> Pilot:
        """Make a pilot that serves llama."""
        self.ask_and_forget()
        pilot = self.pilot()
        self.start(pilot)
        self.report(pilot)
        self.tick(1.0)
        pilot.refresh_from_db()
        return pilot

    def ask_and_forget(self) -> None:
        request = self.ask()
        self.tick()
        with moving() as cur:
            ledger.cancel(cur, [request], self.at(), "left")
