"""The fleet: pilots and replicas, what people asked of it, what it decided, what Slurm said.

`portal.fleet.transitions` alone moves states. Shown phases are derived by `portal.fleet.phase`.
"""

from __future__ import annotations

from portal.fleet.models.candidates import Candidate
from portal.fleet.models.memory import BadNode, Cluster, Fit, PoolState, ProfileState, WayState
from portal.fleet.models.pilots import REPLICA_ENDED, GpuClaim, Pilot, PilotState, Replica, ReplicaState
from portal.fleet.models.record import Command, Decision, FleetEvent, PilotLog
from portal.fleet.models.samples import Sample

__all__ = [
    "REPLICA_ENDED",
    "BadNode",
    "Candidate",
    "Cluster",
    "Command",
    "Decision",
    "Fit",
    "FleetEvent",
    "GpuClaim",
    "Pilot",
    "PilotLog",
    "PilotState",
    "PoolState",
    "ProfileState",
    "Replica",
    "ReplicaState",
    "Sample",
    "WayState",
]
