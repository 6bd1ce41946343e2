"""Jobs of ours that no pilot needs → cancelled, each with a row that says so."""

from __future__ import annotations

import logging

from scheduler.act import refusals
from scheduler.act.actor import Actor
from scheduler.act.decision_rows import write_decided
from scheduler.policy.consequences import CancelUnknownJob
from scheduler.slurm.protocol import NoAnswer, NotOffered, Rejected

logger = logging.getLogger(__name__)


def cancel(actor: Actor, decision: CancelUnknownJob) -> bool:
    """Cancel the job. What Slurm does not hear now, it hears after the next listing; what it refuses, in an hour."""
    job = (decision.cluster, decision.job_id, decision.name)
    way = actor.site.named(decision.cluster, decision.way)
    if way is None or refusals.is_held(*job, actor.clock()):
        return False
    try:
        actor.client_for(way).cancel([decision.job_id])
    except (NoAnswer, NotOffered) as error:
        logger.warning("scancel %d: %s", decision.job_id, error)
        return False
    except Rejected as error:
        refusals.note(*job, error, actor.clock())
        return False
    write_decided(decision, actor.now())
    return True
