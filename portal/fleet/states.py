"""The states of pilots and replicas, and the sets of them that mean something together. Plain Python.

Separate from the tables, so that the policies and the data plane, which know no Django, compare the same words.
`portal.fleet.transitions` moves them. Values are what the tables and the wire hold.
"""

from __future__ import annotations

from enum import StrEnum


class PilotState(StrEnum):
    """The states of a pilot: planned → submitted → pending → up → draining → ended."""

    PLANNED = "planned"  # the intent, before sbatch
    SUBMITTED = "submitted"  # sbatch answered with a job id
    PENDING = "pending"  # seen in a listing, not running
    UP = "up"  # its agent registered
    DRAINING = "draining"
    ENDED = "ended"


# Slurm has not started the job yet, as far as we know.
ON_ITS_WAY = frozenset({PilotState.PLANNED, PilotState.SUBMITTED, PilotState.PENDING})
# An agent runs in the job.
ON_NODES = frozenset({PilotState.UP, PilotState.DRAINING})


class ReplicaState(StrEnum):
    """The states of a replica: wanted → starting → hot → draining → asleep | stopped | failed."""

    WANTED = "wanted"
    STARTING = "starting"
    HOT = "hot"
    DRAINING = "draining"
    ASLEEP = "asleep"
    STOPPED = "stopped"
    FAILED = "failed"


# Its engine is not ready yet.
COMING = frozenset({ReplicaState.WANTED, ReplicaState.STARTING})
# It serves, or is on the way to it.
SERVING = COMING | {ReplicaState.HOT}
REPLICA_ENDED = frozenset({ReplicaState.STOPPED, ReplicaState.FAILED})


class ReplicaStart(StrEnum):
    """The reason why a replica is starting."""

    LOAD = "load"  # its weights are loaded
    WAKE = "wake"  # its engine is woken
