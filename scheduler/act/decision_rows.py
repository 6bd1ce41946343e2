"""What befell the fleet without a decision of ours, as rows among the decisions.

Separate from `scheduler.act`, which records what was decided: a node that fails and a Slurm that falls silent are
decided by nobody, and the decisions around them make no sense to a reader who is not told of them.
"""

from __future__ import annotations

from datetime import UTC, datetime
from uuid import UUID

from portal.fleet.models import Decision


def tell(
    kind: str,
    reason: str,
    now: float,
    *,
    pilot: UUID | None = None,
    pool: str = "",
    inputs: dict[str, str | int | float] | None = None,
) -> None:
    """Within the transaction of the move that it tells of, where there is one."""
    at = datetime.fromtimestamp(now, UTC)
    Decision.objects.create(at=at, kind=kind, pool=pool, pilot=pilot, reason=reason, inputs=inputs or {})
