"""The only code that moves pilots and replicas from one state to another.

Like `portal.ledger.transitions`: set-based SQL over a plain psycopg2 cursor, every move names the state it
expects, what really moved comes out, the caller commits. Each move leaves a row in `fleet_fleetevent`.
The control loop moves pilots; what agents say of replicas comes in through the worker API.

    planned ─▶ submitted ─▶ pending ─▶ up ─▶ draining ─▶ ended                      (pilots)
    wanted ─▶ starting ─▶ hot ─▶ draining ─▶ asleep | stopped | failed               (replicas)
"""

from portal.fleet.transitions.pilots import (
    drain_pilots,
    end_pilots,
    pending,
    plan,
    register,
    said_ending,
    slurm_said,
    staged,
    submitted,
    up,
    wish_staged,
)
from portal.fleet.transitions.replicas import drain_replicas, seen, wake, want
from portal.fleet.transitions.values import Moved, NewPilot, NewReplica, Registration, Seen, SlurmFact

__all__ = [
    "Moved", "NewPilot", "NewReplica", "Registration", "Seen", "SlurmFact",
    "drain_pilots", "drain_replicas", "end_pilots", "pending", "plan", "register", "said_ending", "seen",
    "slurm_said", "staged", "submitted", "up", "wake", "want", "wish_staged",
]  # fmt: skip
