"""Live pilots → a picture of nodes, their GPUs, the models on them, and how much of each job is left. Pure.

Drawn is what we hold, not the cluster: on other GPUs of a node other people's jobs run. The shapes of a job are written
here and not in a template, which would take a second for the thousand GPUs of a large fleet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby

from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from portal.fleet.models import REPLICA_ENDED, Pilot, Replica, ReplicaState
from portal.fleet.times import span

WIDTH, HEIGHT, GAP = 84, 44, 4  # of one GPU, in pixels
SIDE_BY_SIDE = 4  # so many GPUs fit on a phone
LIFE_HEIGHT = 6
LONGEST = 11  # characters of a model's name that fit
ENDS_SOON_S = 600.0
UNKNOWN_NODE = "node not known yet"

# State of a replica → how its GPU looks. The word stands on it.
LOOKS = {
    "": "empty",
    ReplicaState.WANTED: "loading",
    ReplicaState.STARTING: "loading",
    ReplicaState.HOT: "hot",
    ReplicaState.DRAINING: "leaving",
}


@dataclass(frozen=True, slots=True)
class Gpu:
    """`state`: of the replica on it; empty where it has none."""

    index: int
    model: str = ""
    state: str = ""

    @property
    def what(self) -> str:
        return f"{self.model}, {self.state}" if self.model else "empty"

    @property
    def short(self) -> str:
        """Without the maker, as far as it fits."""
        name = self.model.rsplit("/", 1)[-1]
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Job:
    """`life`: pixels of its bar that are left; 0 when its end is not known. `asleep`: models in its host memory."""

    pilot: Pilot
    gpus: list[Gpu]
    asleep: list[str]
    left_s: float | None
    life: int
    width: int

    @property
    def ends_soon(self) -> bool:
        return self.left_s is not None and self.left_s < ENDS_SOON_S

    @property
    def left(self) -> str:
        return "end not known" if self.left_s is None else f"{span(self.left_s)} left"

    @property
    def whats(self) -> list[str]:
        """GPUs with the same on them together: 0–3: surf, hot."""
        found = []
        for what, together in groupby(self.gpus, key=lambda gpu: gpu.what):
            numbers = [gpu.index for gpu in together]
            several = f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
            found.append(f"GPU {several}: {what}")
        return found

    def svg(self) -> SafeString:
        """Its GPUs, and below them how much of its time is left."""
        rows = -(-len(self.gpus) // SIDE_BY_SIDE)
        life_y = rows * (HEIGHT + GAP)
        height = life_y + LIFE_HEIGHT
        says = escape(f"Job {self.pilot.job_id}: {'; '.join(self.whats)}; {self.left}")
        size = f'width="{self.width}" height="{height}" viewBox="0 0 {self.width} {height}"'
        bar, soon = f'y="{life_y}" height="{LIFE_HEIGHT}" rx="3"', " soon" if self.ends_soon else ""
        return mark_safe(
            f'<svg {size} role="img" aria-label="{says}">{"".join(self._shapes())}'
            f'<rect class="life-whole" {bar} width="{self.width}"/>'
            f'<rect class="life{soon}" {bar} width="{self.life}"/></svg>'
        )

    def _shapes(self) -> Iterator[str]:
        for gpu in self.gpus:
            x, y = gpu.index % SIDE_BY_SIDE * (WIDTH + GAP), gpu.index // SIDE_BY_SIDE * (HEIGHT + GAP)
            at = f'x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"'
            title, name = escape(f"GPU {gpu.index}: {gpu.what}"), escape(gpu.short or "–")
            yield (
                f'<g class="gpu {LOOKS[gpu.state]}"><title>{title}</title><rect {at} rx="4"/><svg {at}>'
                f'<text x="6" y="18" class="name">{name}</text><text x="6" y="35">{gpu.state or "empty"}</text></svg></g>'
            )


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    jobs: list[Job]


def nodes(pilots: Iterable[Pilot], now: datetime) -> list[Node]:
    """Of pilots that Slurm has started, by node. Replicas must have been fetched along."""
    by_node: dict[str, list[Job]] = defaultdict(list)
    for pilot in pilots:
        by_node[pilot.node or UNKNOWN_NODE].append(_job(pilot, now))
    return [
        Node(name, sorted(jobs, key=lambda job: job.pilot.job_id or 0))
        for name, jobs in sorted(by_node.items())
    ]


def _job(pilot: Pilot, now: datetime) -> Job:
    live = [replica for replica in pilot.replicas.all() if replica.state not in REPLICA_ENDED]
    awake = [replica for replica in live if replica.state != ReplicaState.ASLEEP]
    asleep = sorted(replica.model for replica in live if replica.state == ReplicaState.ASLEEP)
    width = min(pilot.gpus, SIDE_BY_SIDE) * (WIDTH + GAP) - GAP
    left_s = max(0.0, (pilot.slurm_end_at - now).total_seconds()) if pilot.slurm_end_at else None
    life = round(width * min(1.0, left_s / (60 * pilot.walltime_min))) if left_s is not None else 0
    return Job(pilot, _gpus(pilot.gpus, awake), asleep, left_s, life, width)


def _gpus(count: int, replicas: Sequence[Replica]) -> list[Gpu]:
    on = {index: replica for replica in replicas for index in replica.gpu_indices}
    return [Gpu(i, on[i].model, on[i].state) if i in on else Gpu(i) for i in range(count)]
