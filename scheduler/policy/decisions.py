"""What a policy can decide, as frozen values. `scheduler.act` carries them out and stores each as a row.

`reason` is written for a scientist; `inputs` holds the few numbers that the decision was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from scheduler.policy.snapshot import HoldView

Inputs = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """What all decisions carry."""

    kind: ClassVar[str] = ""
    reason: str
    inputs: Inputs = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPilot(Decided):
    """A new job whose first replica serves `pool`."""

    kind: ClassVar[str] = "launch"
    pool: str
    profile: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReplica(Decided):
    """A replica in a pilot that exists."""

    kind: ClassVar[str] = "place"
    pool: str
    pilot: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReplica(Decided):
    """Out of routing; stops when nothing is in flight."""

    kind: ClassVar[str] = "drain_replica"
    pool: str
    pilot: str
    replica: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPilot(Decided):
    """Lets a running job go: its agent ends it once nothing runs."""

    kind: ClassVar[str] = "drain_pilot"
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelPilot(Decided):
    """scancel. `failed`: it counts as a failed launch of the pools that waited for it."""

    kind: ClassVar[str] = "cancel"
    pilot: str
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPool(Decided):
    """What the pool's state says from now on: failures in a row, the next try, a latch, and why nothing runs."""

    kind: ClassVar[str] = "hold"
    pool: str
    hold: HoldView


Decision = LaunchPilot | PlaceReplica | DrainReplica | DrainPilot | CancelPilot | HoldPool
