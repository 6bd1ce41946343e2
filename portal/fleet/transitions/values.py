"""What the transitions take and what they answer: values only.

Separate because the loop and the worker API hold them long before a cursor comes into it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID


@dataclass(frozen=True, slots=True)
class NewPilot:
    """The intent to submit a job (invariant 2): written and committed before sbatch."""

    id: UUID
    cluster: str
    profile_id: int
    job_name: str
    gpus: int  # of all its nodes
    mem_mb: int  # of each
    walltime_min: int
    gpu_type: str = ""
    replaces: UUID | None = None
    nodes: int = 1


@dataclass(frozen=True, slots=True)
class NewReplica:
    id: UUID
    pilot: UUID
    pool: str
    model: str
    engine: str
    gpu_indices: tuple[int, ...]
    mem_mb: int
    cap: int


@dataclass(frozen=True, slots=True)
class SlurmFact:
    """One job as the last listing showed it."""

    pilot: UUID
    state: str
    reason: str
    start_at: datetime | None
    end_at: datetime | None
    node: str


@dataclass(frozen=True, slots=True)
class Registration:
    pilot: UUID
    job_id: int
    node: str
    address: str
    job_started_at: datetime
    gpu_ids: tuple[str, ...]
    agent_version: str


@dataclass(frozen=True, slots=True)
class Seen:
    """One replica as its agent reported it."""

    id: UUID
    state: str  # starting | hot | draining | asleep | stopped | failed
    phase: str
    started_at: datetime | None
    hot_at: datetime | None
    error: str
    engine_version: str
    asleep_mem_mb: int | None = None  # host memory that it was seen to hold asleep, MiB
    start: str = ""  # load | wake; "": its agent, of before, does not say


@dataclass(frozen=True, slots=True)
class Moved:
    pilot: UUID
    replica: UUID | None
    old: str
    new: str
    pool: str
