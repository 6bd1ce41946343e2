"""Live pilots → a picture of nodes, their GPUs, the models on them, and how much of each job is left. Pure.

Drawn is what we hold, not the cluster: on other GPUs of a node other people's jobs run. What there is of each job is
written here and not in a template, which would take a second for the thousand GPUs of a large fleet.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import groupby
from uuid import UUID

from django.urls import reverse
from django.utils.html import escape
from django.utils.safestring import SafeString, mark_safe

from portal.dashboard.templatetags.berth import state
from portal.fleet.models import Pilot, Replica
from portal.fleet.states import PilotState, ReplicaState
from portal.fleet.times import span

WIDTH, HEIGHT, GAP = 84, 44, 4  # of one GPU, in pixels
SIDE_BY_SIDE = 4  # so many GPUs fit on a phone
LIFE_HEIGHT = 6
LONGEST = 11  # characters of a model's name that fit
ENDS_SOON_S = 600.0
UNKNOWN_NODE = "node not yet known"
ANY = UUID(int=0)

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
    """One GPU of a job. `state`: of the replica on it; empty where it has none. `on_cpus`: no GPU, but the place of a
    replica that runs without one."""

    index: int
    model: str = ""
    state: str = ""
    on_cpus: bool = False
    id: str = ""  # as its agent knows it: a UUID, of a GPU or of a MIG slice

    @property
    def name(self) -> str:
        return "CPUs" if self.on_cpus else f"GPU {self.index}"

    @property
    def what(self) -> str:
        return f"{self.model}, {self.state}" if self.model else "no model"

    @property
    def short(self) -> str:
        """Return the model's name without its maker, as far as it fits."""
        name = self.model.rsplit("/", 1)[-1]
        return name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…"


@dataclass(frozen=True, slots=True)
class Job:
    """A job on a node. `life`: pixels of its bar that are left; 0 when its end is not known. `asleep`: models in its
    host memory. `whats`: what is on its GPUs, those with the same together: 0–3: surf, hot."""

    pilot: Pilot
    url: str
    gpus: list[Gpu]
    whats: list[str]
    asleep: list[str]
    left_s: float | None
    life: int
    width: int

    @property
    def ends_soon(self) -> bool:
        return self.left_s is not None and self.left_s < ENDS_SOON_S

    @property
    def left(self) -> str:
        return "end unknown" if self.left_s is None else f"{span(self.left_s)} left"

    def figure(self) -> str:
        leaves = f" {state(self.pilot.state)}" if self.pilot.state == PilotState.DRAINING else ""
        asleep = f"<small>asleep: {escape(', '.join(self.asleep))}</small>" if self.asleep else ""
        return (
            f'<figure>{self._svg()}<figcaption><a href="{self.url}">Job {self.pilot.job_id}</a>{leaves} '
            f'<span class="num">{self.left}</span>{asleep}</figcaption></figure>'
        )

    def row(self, node: str) -> str:
        """Return the job as a row of a table."""
        return (
            f'<tr><td>{escape(node)}</td><td class="num">{self.pilot.job_id}</td>'
            f'<td>{escape("; ".join(self.whats))}</td><td class="num">{self.left}</td></tr>'
        )

    def _svg(self) -> str:
        """Return the picture of the job's GPUs, and below them how much of its time is left."""
        rows = -(-len(self.gpus) // SIDE_BY_SIDE)
        life_y = rows * (HEIGHT + GAP)
        height = life_y + LIFE_HEIGHT
        says = escape(f"Job {self.pilot.job_id}: {'; '.join(self.whats)}; {self.left}")
        size = f'width="{self.width}" height="{height}" viewBox="0 0 {self.width} {height}"'
        bar, soon = f'y="{life_y}" height="{LIFE_HEIGHT}" rx="3"', " soon" if self.ends_soon else ""
        return (
            f'<svg {size} role="img" aria-label="{says}">{"".join(self._shapes())}'
            f'<rect class="life-whole" {bar} width="{self.width}"/>'
            f'<rect class="life{soon}" {bar} width="{self.life}"/></svg>'
        )

    def _shapes(self) -> Iterator[str]:
        for gpu in self.gpus:
            x, y = gpu.index % SIDE_BY_SIDE * (WIDTH + GAP), gpu.index // SIDE_BY_SIDE * (HEIGHT + GAP)
            at = f'x="{x}" y="{y}" width="{WIDTH}" height="{HEIGHT}"'
            known_as = f" ({gpu.id})" if gpu.id not in ("", str(gpu.index)) else ""
            title, name = escape(f"{gpu.name}{known_as}: {gpu.what}"), escape(gpu.short or "–")
            yield (
                f'<g class="gpu {LOOKS[gpu.state]}"><title>{title}</title><rect {at} rx="4"/><svg {at}>'
                f'<text x="6" y="18" class="name">{name}</text>'
                f'<text x="6" y="35">{gpu.state or "no model"}</text></svg></g>'
            )


@dataclass(frozen=True, slots=True)
class Node:
    name: str
    jobs: list[Job]

    def figures(self) -> SafeString:
        return mark_safe("".join(job.figure() for job in self.jobs))

    def rows(self) -> SafeString:
        return mark_safe("".join(job.row(self.name) for job in self.jobs))


def nodes(pilots: Iterable[Pilot], live: Mapping[UUID, Sequence[Replica]], now: datetime) -> list[Node]:
    """Return the nodes of the pilots that Slurm has started. `live`: the replicas of each pilot that have not ended."""
    url = reverse("fleet-pilot", args=[ANY])
    by_node: dict[tuple[str, str], list[Job]] = defaultdict(list)
    for pilot in pilots:
        job = _job(pilot, url.replace(str(ANY), str(pilot.id)), live.get(pilot.id, ()), now)
        by_node[pilot.cluster, pilot.node or UNKNOWN_NODE].append(job)
    # Two clusters may both have a gpu01.
    several = len({cluster for cluster, _ in by_node}) > 1
    return [
        Node(f"{cluster}: {name}" if several else name, sorted(jobs, key=lambda job: job.pilot.job_id or 0))
        for (cluster, name), jobs in sorted(by_node.items())
    ]


def _job(pilot: Pilot, url: str, live: Sequence[Replica], now: datetime) -> Job:
    awake = [replica for replica in live if replica.state != ReplicaState.ASLEEP]
    asleep = sorted(replica.model for replica in live if replica.state == ReplicaState.ASLEEP)
    gpus = _gpus(pilot.gpus, pilot.gpu_ids, awake)
    width = min(len(gpus), SIDE_BY_SIDE) * (WIDTH + GAP) - GAP
    left_s = max(0.0, (pilot.slurm_end_at - now).total_seconds()) if pilot.slurm_end_at else None
    life = round(width * min(1.0, left_s / (60 * pilot.walltime_min))) if left_s is not None else 0
    return Job(pilot, url, gpus, _whats(gpus), asleep, left_s, life, width)


def _gpus(count: int, ids: Sequence[str], replicas: Sequence[Replica]) -> list[Gpu]:
    """Return the GPUs, and behind them a place for each replica that runs without; a job has one place at least."""
    on = {index: replica for replica in replicas for index in replica.gpu_indices}
    found = [Gpu(i, on[i].model, on[i].state) if i in on else Gpu(i) for i in range(count)]
    found = [replace(gpu, id=ids[gpu.index]) if gpu.index < len(ids) else gpu for gpu in found]
    without = sorted((r.model, r.state) for r in replicas if not r.gpu_indices)
    found += [Gpu(i, model, state, on_cpus=True) for i, (model, state) in enumerate(without, start=count)]
    return found or [Gpu(0, on_cpus=True)]


def _whats(gpus: Sequence[Gpu]) -> list[str]:
    found = []
    for (on_cpus, what), together in groupby(gpus, key=lambda gpu: (gpu.on_cpus, gpu.what)):
        numbers = [gpu.index for gpu in together]
        several = f"{numbers[0]}–{numbers[-1]}" if len(numbers) > 1 else str(numbers[0])
        found.append(f"CPUs: {what}" if on_cpus else f"GPU {several}: {what}")
    return found
