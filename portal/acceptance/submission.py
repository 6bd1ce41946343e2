"""A request handed in for later → its row in the ledger, by the one rule. Over the caller's cursor; no Django.

Separate from the rule, which is pure: here its facts are gathered from PostgreSQL and Redis, and what it grants is
taken. POST /api/v1/requests comes in here whole. The gateway gathers most facts without waiting and comes for the count;
the import of a batch asks for the facts of all its lines together.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import redis
from psycopg2.extensions import cursor as Cursor

from portal.acceptance.inference_request import InferenceRequest
from portal.acceptance.rule import Crowd, Facts, Rates, priority, share, verdict
from portal.accounts.callers import Principal
from portal.admission import quotas, reservations
from portal.admission.subjects import Subjects
from portal.catalog.entries import read_models
from portal.ledger import queue_limit, transitions
from portal.ledger.states import Lane
from portal.ledger.transitions import NewRequest
from portal.policy.limits import Want, wants

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Submission:
    """A request as it was handed in. `priority`: None where none was named."""

    id: UUID
    principal: Principal
    asked: InferenceRequest
    priority: int | None
    accepted_at: datetime


def submit(cur: Cursor, handed: Submission) -> NewRequest:
    """Accept the request, and return the row as it was written: queued or parked. Raises ApiError. The caller commits,
    soon: who else comes under the same limit of waiting requests waits for it."""
    principal, asked = handed.principal, handed.asked
    subjects = Subjects(principal.token, principal.user, principal.project, asked.model)
    limits = quotas.concerning(cur, subjects)
    waits = wants(limits, ("queued",), 0)
    queue_limit.lock(cur, waits, queue_limit.PATIENCE_S)
    model = read_models(cur, [asked.model]).get(asked.model)
    facts = Facts(asked.model, model, principal.project, crowds(cur, waits))
    verdict(facts).accepted()  # nothing is taken for one that is refused
    assert model is not None
    cost, level = asked.estimated_tokens(), priority(handed.priority, principal.priority)
    state = verdict(facts._replace(rates=rates(limits, handed.id, cost))).accepted()
    (key,) = reservations.reserve(
        cur, model.pool, Lane.ASYNC, principal.project, [share(cost, principal.weight)], level
    )
    row = NewRequest(
        id=handed.id,
        pool=model.pool,
        model=asked.model,
        project_id=principal.project,
        user_id=principal.user,
        token_id=principal.token,
        api=asked.api,
        stream=False,
        lane=Lane.ASYNC,
        priority=level,
        order_key=key,
        holder=None,
        accepted_at=handed.accepted_at,
        body=asked.body,
        state=state,
        content_type=asked.content_type,
        engine_path=asked.engine_path,
    )
    transitions.accept(cur, [row])
    return row


def enter(cur: Cursor, row: NewRequest, facts: Facts, waits: Sequence[Want]) -> None:
    """Write the row of a request that was found to be acceptable, unless others have come before it meanwhile. Raises
    ApiError. The caller commits."""
    queue_limit.lock(cur, waits, queue_limit.PATIENCE_S)
    verdict(facts._replace(crowds=crowds(cur, waits))).accepted()
    transitions.accept(cur, [row])


def crowds(cur: Cursor, waits: Sequence[Want], coming: int = 1, of_model: int = 1) -> list[Crowd]:
    """Return each limit of waiting requests with those that wait and those that come, of which `of_model` are for the
    limits' model."""
    return [
        Crowd(want, queue_limit.count(cur, want), of_model if want.level == "model" else coming)
        for want in waits
    ]


def rates(limits: quotas.Concerning, request: UUID, cost: int) -> Rates:
    """Take what the request needs of every rate, or nothing, and say which it was."""
    try:
        return "allow" if quotas.take(limits, request, cost) else "refuse"
    except (redis.RedisError, OSError) as error:
        logger.warning("limits: %s; request %s is parked", error, request)
        return "unknown"
