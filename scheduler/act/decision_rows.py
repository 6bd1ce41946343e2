"""What was decided, and what befell the fleet without a decision, as rows of one table. The only writer of them.

Separate from the deeds, because a reader of the rows has to be told of everything in one form: the decisions around a
node that failed or a Slurm that fell silent make no sense without a row about those.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from uuid import UUID

from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Decision
from scheduler.policy.decisions import Decided

Inputs = Mapping[str, str | int | float | bool | None]


def write(
    kind: DecisionKind,
    reason: str,
    at: datetime,
    *,
    pool: str = "",
    pilot: UUID | None = None,
    replica: UUID | None = None,
    inputs: Inputs | None = None,
) -> Decision:
    """Write one row and return it. Belongs within the transaction of the move that it tells of, where there is one."""
    return Decision.objects.create(
        at=at, kind=kind, pool=pool, pilot=pilot, replica=replica, reason=reason, inputs=dict(inputs or {})
    )


def write_decided(
    decision: Decided, at: datetime, *, pool: str = "", pilot: UUID | None = None, replica: UUID | None = None
) -> Decision:
    """Write the row of a decision that is carried out, with its own kind, reason and inputs."""
    return write(
        decision.kind, decision.reason, at, pool=pool, pilot=pilot, replica=replica, inputs=decision.inputs
    )


def amend(row: Decision, inputs: Inputs) -> None:
    """Change some inputs of a row that stands for something lasting, e.g. when it was last asked for."""
    row.inputs.update(inputs)
    row.save(update_fields=["inputs"])
