"""A cancellation that Slurm refused → one row that says so of that job, and no further question about it for an hour.

Separate from a way's silence: who refuses has heard, so nothing else waits. The row is also where the next tick, in
whatever process, reads that it has asked already.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from uuid import UUID

from portal.fleet.decision_kinds import DecisionKind
from portal.fleet.models import Decision
from scheduler.act.decision_rows import Inputs, amend, write
from scheduler.slurm.protocol import Rejected

logger = logging.getLogger(__name__)

AGAIN_S = 3600.0


def reason(cluster: str, job_id: int, name: str) -> str:
    """Return what was noted of this job; "" for nothing."""
    row = _row(cluster, job_id, name)
    return row.reason if row is not None else ""


def is_held(cluster: str, job_id: int, name: str, now: float) -> bool:
    """Return whether Slurm refused to cancel this job within the last hour. The name, because numbers come again."""
    row = _row(cluster, job_id, name)
    return row is not None and now - float(row.inputs["asked_at"]) < AGAIN_S


def note(
    cluster: str, job_id: int, name: str, error: Rejected, now: float, *, pilot: UUID | None = None
) -> str:
    """Write it down, in one row for each job however often it is asked for; return the words."""
    row = _row(cluster, job_id, name)
    if row is not None:
        amend(row, {"asked_at": now})
        return row.reason
    text = (
        f"Slurm refused to cancel job {job_id}: {error.reason.rstrip('.')}. Cancel it as the account that owns it, or "
        "as Slurm's operator; Berth asks again in an hour, and all else goes on."
    )
    logger.warning("%s", text)
    inputs: Inputs = {"job": job_id, "name": name, "cluster": cluster, "asked_at": now}
    at = datetime.fromtimestamp(now, UTC)
    write(DecisionKind.CANCEL_REFUSED, text, at, pilot=pilot, inputs=inputs)
    return text


def _row(cluster: str, job_id: int, name: str) -> Decision | None:
    which = {"inputs__job": job_id, "inputs__name": name, "inputs__cluster": cluster}
    return Decision.objects.filter(kind=DecisionKind.CANCEL_REFUSED, **which).order_by("at").last()
