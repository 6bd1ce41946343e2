"""What is known of a pool at one moment, and what people are told of it: the values on both sides of `explain`.

Separate from it so that those who only show a phase do not look as if they made one. Times are UNIX seconds,
lengths are seconds; None means unknown, never zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

Residency = Literal["ready", "starting", "not_loaded", "unavailable"]
_SUBJECT = "The model "


@dataclass(frozen=True, slots=True)
class JobFacts:
    """The Slurm job that a replica is in."""

    state: str  # of the pilot
    profile: str
    job_id: int | None = None
    submitted_at: float | None = None
    slurm_state: str = ""
    slurm_reason: str = ""
    starts_at: float | None = None  # Slurm's own estimate while it is pending
    node: str = ""
    silent: str = ""  # who does not answer, of the way by which the job was submitted; "" = it answers
    silent_since: float | None = None  # when it last did


@dataclass(frozen=True, slots=True)
class ReplicaFacts:
    """A live replica."""

    state: str
    job: JobFacts
    started_at: float | None = None  # its engine
    says: str = ""  # the engine's own words while it starts
    wakes: bool = False  # it starts because it is woken, and loads nothing


@dataclass(frozen=True, slots=True)
class ProfileFacts:
    """One of the profiles under which the pool's jobs may be submitted."""

    name: str
    wait_p50_s: float | None = None  # how long Slurm let its jobs wait within a day
    wait_p90_s: float | None = None
    starts_at: float | None = None  # Slurm's estimate for a job submitted now
    load_s: float | None = None  # measured on its type of GPU
    latched: str = ""  # why nothing is submitted under it until a person looks
    silent: str = ""  # as of a job
    silent_since: float | None = None
    paused: bool = False  # the fleet, in its cluster
    has_room: bool = False  # a job of it is up and holds GPUs and memory that the pool could have now
    of_wider: bool = False  # `starts_at` is of a job over more nodes than the pool's


@dataclass(frozen=True, slots=True)
class PoolFacts:
    replicas: Sequence[ReplicaFacts] = ()
    profiles: Sequence[ProfileFacts] = ()  # enabled ones on whose GPUs it fits
    paused: bool = False
    fleet_paused: bool = False
    latched_reason: str = ""  # why a person has to look first
    hold_reason: str = ""  # why the loop starts nothing just now: no room, a back-off, a gap…
    retry_at: float | None = None
    failures: int = 0  # launches that failed one after another; `hold_reason` then says why the last one did
    load_s: float | None = None  # measured or estimated
    wake_s: float | None = None  # from asleep to ready, measured
    service_s: float | None = None  # engine time of one request, measured
    cap: int = 1  # requests in flight of one replica


@dataclass(frozen=True, slots=True)
class Part:
    """One stretch of the way to an answer. `seconds`: what is left of it."""

    name: Literal["quota", "queue", "slurm", "load"]
    text: str
    seconds: float | None


@dataclass(frozen=True, slots=True)
class Phase:
    """The phase of a pool: Ready · Starting (≈ 4 min) · Not loaded · Unavailable, with the reason in English.

    `eta_s` is the sum of the parts, and unknown if one of them is or something else holds it. `seats`:
    requests that run at once.
    """

    residency: Residency
    eta_s: float | None
    reason: str
    parts: tuple[Part, ...] = ()
    next_step: str = ""
    seats: int = 1
    service_s: float | None = None

    def named(self, model: str) -> Phase:
        """Return the same phase of a model with a name."""
        if not self.reason.startswith(_SUBJECT):
            return self
        return replace(self, reason=f"{model} {self.reason.removeprefix(_SUBJECT)}")

    @property
    def says(self) -> str:
        """Say reason and next step, for those who have room for one text only."""
        return " ".join(filter(None, (self.reason, self.next_step)))
