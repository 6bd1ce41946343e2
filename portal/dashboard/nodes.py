"""Live pilots → a picture of nodes, their GPUs, the models on them, and how much of each job is left. Pure.

Drawn is what we hold, not the cluster: on other GPUs of a node other people's jobs run.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

from portal.fleet.models import REPLICA_ENDED, Pilot, Replica, ReplicaState

WIDTH, HEIGHT, GAP = 84, 44, 4  # of one GPU, in pixels
SIDE_BY_SIDE = 4  # so many GPUs fit on a phone
LIFE_HEIGHT = 6
LONGEST = 11  # characters of a model's name that fit
ENDS_SOON_S = 600.0

# State of a replica → how its GPU looks. The word stands on it.
LOOKS = {
    ReplicaState.WANTED: "loading",
    ReplicaState.STARTING: "loading",
    ReplicaState.HOT: "hot",
    ReplicaState.DRAINING: "leaving",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """`state`: of the replica on it; empty where it has none."""

    index: int
    model: str
    state: str
    look: str
    x: int
    y: int
    width: int = WIDTH
    height: int = HEIGHT

    @property
    def short(self) -> str:
        """The end of a name tells models apart better than its beginning, which is often the maker's."""
        name = self.model.rsplit("/", 1)[-1]
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Job:
    pilot: Pilot
    gpus: list[Gpu]
    asleep: list[str]  # models that wait in its host memory
    left_s: float | None
    life: int  # pixels of the bar that are left; 0 when its end is not known
    width: int
    life_y: int
    height: int

    @property
    def ends_soon(self) -> bool:
        return self.left_s is not None and self.left_s < ENDS_SOON_S


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    jobs: list[Job]


def nodes(pilots: Iterable[Pilot], now: datetime) -> list[Node]:
    """Of pilots that Slurm has started, by node. Replicas must have been fetched along."""
    by_node: dict[str, list[Job]] = defaultdict(list)
    for pilot in pilots:
        by_node[pilot.node or "node not known yet"].append(_job(pilot, now))
    return [
        Node(name, sorted(jobs, key=lambda job: job.pilot.job_id or 0))
        for name, jobs in sorted(by_node.items())
    ]


def _job(pilot: Pilot, now: datetime) -> Job:
    live = [replica for replica in pilot.replicas.all() if replica.state not in REPLICA_ENDED]
    awake = [replica for replica in live if replica.state != ReplicaState.ASLEEP]
    gpus = _gpus(pilot.gpus, awake)
    width = min(len(gpus), SIDE_BY_SIDE) * (WIDTH + GAP) - GAP
    life_y = max((gpu.y for gpu in gpus), default=0) + HEIGHT + GAP
    left_s = max(0.0, (pilot.slurm_end_at - now).total_seconds()) if pilot.slurm_end_at else None
    life = round(width * min(1.0, left_s / (60 * pilot.walltime_min))) if left_s is not None else 0
    asleep = sorted(replica.model for replica in live if replica.state == ReplicaState.ASLEEP)
    return Job(pilot, gpus, asleep, left_s, life, width, life_y, life_y + LIFE_HEIGHT)


def _gpus(count: int, replicas: Sequence[Replica]) -> list[Gpu]:
    on = {index: replica for replica in replicas for index in replica.gpu_indices}
    found = []
    for index in range(count):
        x, y = index % SIDE_BY_SIDE * (WIDTH + GAP), index // SIDE_BY_SIDE * (HEIGHT + GAP)
        replica = on.get(index)
        if replica is None:
            found.append(Gpu(index, "", "", "empty", x, y))
        else:
            look = LOOKS[ReplicaState(replica.state)]
            found.append(Gpu(index, replica.model, replica.state, look, x, y))
    return found
