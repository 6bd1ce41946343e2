"""What follows from what was observed, as frozen values. `scheduler.observe` derives them, `scheduler.act` carries them
out in the same tick, before the policies decide. Pure.

Separate from the policies' decisions, because here nothing is weighed: a job that has ended ends its pilot. Ids of pilots
are texts; `way` is the name of the access by which a job is reached.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from portal.fleet.decision_kinds import DecisionKind
from scheduler.policy.decisions import Decided


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteWaySilent(Decided):
    """Tell once that a way to Slurm does not answer."""

    kind: ClassVar[DecisionKind] = DecisionKind.SLURM_SILENT
    cluster: str
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoteWayAnswers(Decided):
    """Tell once that a way to Slurm answers again."""

    kind: ClassVar[DecisionKind] = DecisionKind.SLURM_ANSWERS
    cluster: str
    way: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePilotSilent(Decided):
    """Tell once that an agent is not heard, so that what it hosts does not count as serving."""

    kind: ClassVar[DecisionKind] = DecisionKind.SILENT
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NotePilotHeard(Decided):
    """Tell once that an agent is heard again."""

    kind: ClassVar[DecisionKind] = DecisionKind.HEARD_AGAIN
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseCluster(Decided):
    """Start nothing in a cluster, and cancel nothing unknown there, until a person resumes it."""

    kind: ClassVar[DecisionKind] = DecisionKind.PAUSE
    cluster: str


@dataclass(frozen=True, slots=True, kw_only=True)
class AdoptJob(Decided):
    """Take a job for the one that a planned pilot asked for: it bears its name."""

    kind: ClassVar[DecisionKind] = DecisionKind.ADOPT
    pilot: str
    job_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FollowJobs:
    """Move pilots to where their jobs and agents were seen. The moves write events of their own, and no decision row."""

    pending: tuple[str, ...] = ()  # Slurm lets their jobs wait
    up: tuple[str, ...] = ()  # their agents have registered


@dataclass(frozen=True, slots=True, kw_only=True)
class EndPilot(Decided):
    """End a pilot whose job is over. `failed`: it counts against the models that it was starting. `unasked`: no decision
    brought it about, so a row tells of it."""

    kind: ClassVar[DecisionKind] = DecisionKind.ENDED
    pilot: str
    failed: bool
    unasked: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelUnknownJob(Decided):
    """Cancel a job of ours that no pilot needs."""

    kind: ClassVar[DecisionKind] = DecisionKind.CANCEL_UNKNOWN
    cluster: str
    way: str
    job_id: int
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResubmitPilot(Decided):
    """Submit the job of a planned pilot once more: Slurm has never seen it."""

    kind: ClassVar[DecisionKind] = DecisionKind.RESUBMIT
    pilot: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ExcludeNode(Decided):
    """Leave a node out of new jobs for `for_s` seconds."""

    kind: ClassVar[DecisionKind] = DecisionKind.EXCLUDE_NODE
    cluster: str
    node: str
    failures: int
    last_reason: str
    for_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadmitNode(Decided):
    """Let new jobs use a node again."""

    kind: ClassVar[DecisionKind] = DecisionKind.READMIT_NODE
    cluster: str
    node: str


Consequence = (
    NoteWaySilent
    | NoteWayAnswers
    | NotePilotSilent
    | NotePilotHeard
    | PauseCluster
    | AdoptJob
    | FollowJobs
    | EndPilot
    | CancelUnknownJob
    | ResubmitPilot
    | ExcludeNode
    | ReadmitNode
)
