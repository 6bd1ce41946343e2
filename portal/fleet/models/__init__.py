"""The fleet: pilots and replicas, what people asked of it, what it decided, what Slurm said.

States stand in `portal.fleet.states`, and `portal.fleet.transitions` alone moves them. Shown phases are derived by
`portal.fleet.phase`.
"""

from __future__ import annotations

from portal.fleet.models.candidates import Candidate
from portal.fleet.models.memory import BadNode, Cluster, Fit, PoolState, ProfileState, WayState
from portal.fleet.models.pilots import GpuClaim, Pilot, Replica
from portal.fleet.models.record import Command, Decision, FleetEvent, PilotLog
from portal.fleet.models.samples import Sample

__all__ = [
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
    "PoolState",
    "ProfileState",
    "Replica",
    "Sample",
    "WayState",
]
