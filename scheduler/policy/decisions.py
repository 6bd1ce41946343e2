"""What a policy can decide, as frozen values. `scheduler.act` carries them out and stores each as a row.

`reason` is written for a scientist; `inputs` holds the few numbers that the decision was made from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from portal.fleet.decision_kinds import DecisionKind
from scheduler.policy.views import HoldView

Inputs = dict[str, str | int | float | bool | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decided:
    """Hold what all decisions carry."""

    kind: ClassVar[DecisionKind]
    reason: str
    inputs: Inputs = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchPilot(Decided):
    """Submit a new job whose first replica serves `pool`. `replaces`: the pilot that it takes over from."""

    kind: ClassVar[DecisionKind] = DecisionKind.LAUNCH
    pool: str
    profile: str
    gpu_indices: tuple[int, ...]
    replaces: str = ""
    limit_s: float | None = None  # a shorter walltime than the profile's, e.g. up to a reservation


@dataclass(frozen=True, slots=True, kw_only=True)
class PlaceReplica(Decided):
    """Put a replica into a pilot that exists."""

    kind: ClassVar[DecisionKind] = DecisionKind.PLACE
    pool: str
    pilot: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReplica(Decided):
    """Take a replica out of routing; when nothing is in flight it stops, or sleeps as deep as `sleep_level`."""

    kind: ClassVar[DecisionKind] = DecisionKind.DRAIN_REPLICA
    pool: str
    pilot: str
    replica: str
    sleep_level: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class WakeReplica(Decided):
    """Give a sleeping engine its GPUs back: asleep → starting."""

    kind: ClassVar[DecisionKind] = DecisionKind.WAKE_REPLICA
    pool: str
    pilot: str
    replica: str
    gpu_indices: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class StageWeights(Decided):
    """Have an agent copy the pool's weights to node-local scratch, ahead of need."""

    kind: ClassVar[DecisionKind] = DecisionKind.STAGE
    pool: str
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainPilot(Decided):
    """Let a running job go: its agent ends it once nothing runs."""

    kind: ClassVar[DecisionKind] = DecisionKind.DRAIN_PILOT
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelPilot(Decided):
    """Cancel a job in Slurm. `failed`: it counts as a failed launch of the pools that waited for it."""

    kind: ClassVar[DecisionKind] = DecisionKind.CANCEL
    pilot: str
    failed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldPool(Decided):
    """Set what the pool's state says from now on: failures in a row, the next try, a latch, and why nothing runs."""

    kind: ClassVar[DecisionKind] = DecisionKind.HOLD
    pool: str
    hold: HoldView


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldProfile(Decided):
    """Submit nothing under the profile until a person has looked."""

    kind: ClassVar[DecisionKind] = DecisionKind.HOLD_PROFILE
    profile: str


Decision = (
    LaunchPilot
    | PlaceReplica
    | DrainReplica
    | WakeReplica
    | StageWeights
    | DrainPilot
    | CancelPilot
    | HoldPool
    | HoldProfile
)
